/** Which numbers of threads are offered. */

import { expect, it } from "vitest";
import { threadChoices } from "../src/ui/threads";

it.each([
  [1, [null, 1]], [2, [null, 1, 2]], [4, [null, 1, 2, 4]], [6, [null, 1, 2, 4, 6]], [64, [null, 1, 2, 4, 8, 16]],
])("offers the powers of two up to %i cores", (cores, expected) => {
  expect(threadChoices(true, cores)).toEqual(expected);
});

it("offers nothing where browsers allow no threads", () => {
  expect(threadChoices(false, 8)).toEqual([]);
});
