/** Hashes, with the browser's code and without. */

import { createHash } from "node:crypto";
import { afterEach, expect, it, vi } from "vitest";
import { sha256, sha256OfFile } from "../src/core/sha256";

afterEach(() => vi.unstubAllGlobals());

it.each([0, 1, 55, 56, 63, 64, 65, 1000])("are the standard's for %i bytes", async (length) => {
  const data = Uint8Array.from({ length }, (_, i) => (i * 37) % 251);
  const expected = createHash("sha256").update(data).digest("hex");
  expect(sha256(data)).toBe(expected);
  expect(await sha256OfFile(data)).toBe(expected);
  vi.stubGlobal("crypto", {}); // a page without https
  expect(await sha256OfFile(data)).toBe(expected);
});
