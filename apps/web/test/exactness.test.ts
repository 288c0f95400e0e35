/** Which windows a plan may take: those of runtime/exactness.py. */

import { describe, expect, it } from "vitest";
import { arBlocks } from "../src/core/spec";
import { committedPatches } from "../src/core/plan";
import { type Difference, exactWindows, type Windows } from "../src/engine/exactness";
import { payingWindows, withoutInexact } from "../src/engine/measure";
import type { PlanOption } from "../src/engine/api";
import { openEmbedded } from "./embedded";

const option = (stage: string, window: number, blockSeconds: number): PlanOption => (
  { stage, window, guided: false, callSeconds: 1, committed: 1, blockSeconds, chosen: false }
);

describe("windows", () => {
  it.each([[true, { a: 4, b: 8 }], [false, { a: 4, b: 8, c: 8 }]])(
    "are left out where they make other pictures, several %s", async (several, left) => {
      // a is wrong with 8 and right with 4; b and c are right alone, and not together
      const compare = async (windows: Windows): Promise<Difference> => {
        const wrong = windows["a"] === 8 || (several && "b" in windows && "c" in windows);
        return { equal: (wrong ? 0.9 : 1) - ("c" in windows ? 0.0005 : 0), levels: 1 };
      };
      const wanted = new Map([["a", [8, 4]], ["b", [8, 2]], ["c", [8]], ["d", []]]);
      expect(await exactWindows(compare, wanted)).toEqual(left);
      expect(await exactWindows(async () => ({ equal: 1, levels: 2 }), wanted)).toEqual({});
    },
  );

  it("must be faster by a twentieth", () => {
    const options = [option("a", 1, 10), option("a", 2, 9.6), option("a", 4, 9), option("a", 8, 8), option("b", 1, 1)];
    expect(payingWindows(options)).toEqual(new Map([["a", [8, 4]], ["b", []]]));
  });

  it("count as the next smaller one that was measured, also where a still smaller one commits more", () => {
    const entries = [["a", 2, 0, 1.5], ["a", 8, 0, 1.2], ["a", 4, 0, 1.9], ["a", 2, 1, 1.1]] as const;
    const profile = {
      floors: new Map(),
      entries: entries.map(([stage, window, guidance, committed]) => ({ stage, window, guidance, committed })),
    };
    const found = [1, 2, 3, 4, 7, 8, 99].map((window) => committedPatches(profile, "a", window, false));
    expect(found).toEqual([1, 1.5, 1.5, 1.9, 1.9, 1.2, 1.2]);
    expect(committedPatches(profile, "a", 8, true)).toBe(1.1);
  });

  it("that only a rough tolerance lets settle are not taken", async () => {
    const flow = await openEmbedded();
    const names = arBlocks(flow.spec).map(({ name }) => name);
    const options = names.flatMap((name) => [option(name, 1, 10), option(name, 8, 1)]); // one picture is compared
    const all = Object.fromEntries(names.map((name) => [name, 8]));
    expect(await withoutInexact(flow, options, false)).toEqual(all);
    flow.plan = { ...flow.plan, tolerance: 0.3 };
    expect(Object.keys(await withoutInexact(flow, options, false)).length).toBeLessThan(names.length);
  });
});
