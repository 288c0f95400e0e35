/** Measurements: when they end, and what is said of them, by the rules of Python. */

import { afterEach, expect, it, vi } from "vitest";
import { judge } from "../src/core/trust";
import type { Picture, Progress } from "../src/engine/api";
import { isDone, rowOf, timePictures } from "../src/engine/timing";
import { describeTrust } from "../src/ui/words";
import { recipeWith } from "./recipe_of_vectors";

const steady = (count: number, level = 10) => Array.from({ length: count }, (_, i) => level + (i % 3) * 0.01);
const picture = (seconds: number): Picture => ({
  pixels: { width: 1, height: 1, channels: 1, data: new Uint8Array(1) }, recipe: recipeWith({}), seconds, calls: null,
});

afterEach(() => vi.useRealTimers());

it.each([
  ["few", steady(9), 5, false],
  ["a moment", steady(50), 0.9, false],
  ["sure", steady(10), 1, true],
  ["not sure", [...steady(5), ...steady(5, 20)], 5, false],
  ["not sure for long", [...steady(5), ...steady(5, 20)], 15, true],
  ["many", Array.from({ length: 100 }, (_, i) => 10 + i), 2, true],
  ["slow, with enough for a verdict that says so", [30_000, 30_000, 30_000], 90, true],
  ["slow, too few", [90_000], 90, false],
])("ends or goes on: %s", (_, samples, seconds, done) => {
  expect(isDone(samples, seconds)).toBe(done);
});

it("leaves the first pictures out, and tells how far it is", async () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  const fractions: number[] = [];
  let made = 0;
  const timed = await timePictures(async () => {
    vi.advanceTimersByTime(200);
    return picture(made++ < 10 ? 9 : 0.2);
  }, (event: Progress) => event.kind === "progress" && fractions.push(event.fraction));
  expect(timed.samples.length).toBeGreaterThanOrEqual(10);
  expect(new Set(timed.samples)).toEqual(new Set([200]));
  expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));
  const row = rowOf(timed, {
    window: "auto", engine: { name: "onnx", version: "v", device: "wasm", precision: "fp32", threads: 1 }, numPatches: 49,
    loadMs: 1, conditions: "", machine: { cores: 1, memory_gb: null, os: null },
  });
  expect([row.median_ms, row.trust, row.patches_per_s]).toEqual([200, "trusted", 245]);
});

it("says every reason", () => {
  const { trust, reasons } = judge([10, 11, 30, 60, 10, 12, 33, 44], 3);
  expect(trust).toBe("not trustworthy");
  const words = describeTrust({ trust, trust_reasons: reasons });
  expect(words).toMatch(/^Not trustworthy: 8 samples, 10 are the least that is trusted; the middle half of the samples is \d+% wide; /);
  expect(describeTrust({ trust: "trusted", trust_reasons: [] })).toBe("Trusted: enough pictures, and they agree.");
});
