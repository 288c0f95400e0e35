/** The whole host code with the embedded model, against what Python gives (tests/make_web_vectors.py). */

import { beforeAll, describe, expect, it } from "vitest";
import { encodePng, readPngRecipe } from "../src/core/png";
import { normalOfWord, normals } from "../src/core/normal";
import { planSha256 } from "../src/core/plan";
import { prepare } from "../src/core/prepare";
import { describeRecipe, dumpRecipe, loadRecipe } from "../src/core/recipe";
import type { Flow } from "../src/engine/flow";
import { openEmbedded } from "./embedded";
import { VECTORS } from "./vectors";

interface Prepared { width: number; height: number; mode: string; input: number[]; levels: number[] }
interface Made {
  seed: string; label: number | null; pixels: number[];
  options: { guidance?: number; annealed?: boolean; attn_temp?: number; denoise?: boolean };
}

function bits(values: Float32Array): string[] {
  return Array.from(new Uint32Array(values.buffer), (v) => v.toString(16).padStart(8, "0"));
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])));
}

const CHANNELS: Record<string, 1 | 3 | 4> = { L: 1, RGB: 3, RGBA: 4 };
const pixelsOf = ({ width, height, mode, input }: Prepared) =>
  ({ width, height, channels: CHANNELS[mode], data: Uint8Array.from(input) });

describe("noise", () => {
  it("has Python's bits, also for words that a contracted multiply-add changes", () => {
    for (const [word, expected] of Object.entries(VECTORS.words)) {
      expect(bits(Float32Array.of(normalOfWord(Number(word))))).toEqual([expected]);
    }
    for (const { seed, count, start, domain, bits: expected } of VECTORS.streams) {
      expect(bits(normals(BigInt(seed), count, start, domain))).toEqual(expected);
    }
  });
});

describe("recipes", () => {
  it("are read and written as Python does, byte for byte", async () => {
    const recipe = loadRecipe(VECTORS.recipe);
    expect(recipe.seeds[0]).toBe(2n ** 64n - 1n);
    expect(dumpRecipe(recipe)).toBe(VECTORS.recipe);
    expect(describeRecipe(recipe)).toBe(VECTORS.description);
    expect(planSha256(recipe.plan)).toBe(VECTORS.plan_sha256);
    const pixels = { width: 2, height: 1, channels: 1 as const, data: Uint8Array.of(1, 2) };
    expect(await readPngRecipe(await encodePng(pixels, recipe))).toEqual(recipe);
    expect(await readPngRecipe(await encodePng(pixels))).toBeNull();
  });
});

describe("the embedded model", () => {
  let flow: Flow;
  beforeAll(async () => {
    flow = await openEmbedded();
  });

  it.each<Prepared>(VECTORS.prepared)("prepares $mode pictures as pillow does", (vector) => {
    const found = prepare(pixelsOf(vector), flow.spec.image);
    expect(largestDifference(found.data, vector.levels)).toBe(0);
  });

  it.each<Made>(VECTORS.pictures)("makes Python's picture of seed $seed", async ({ seed, label, options, pixels }) => {
    const { guidance, annealed, attn_temp: attnTemp, denoise } = options;
    const found = await flow.generate({ seed, label, guidance, annealed, attnTemp, denoise });
    expect(largestDifference(found.pixels.data, pixels)).toBeLessThanOrEqual(1);
  });

  it("scores as Python does", async () => {
    const image = pixelsOf(VECTORS.prepared[1]);
    for (const noise of ["none", "train"] as const) {
      const { bitsPerDim } = await flow.score(image, { label: 2, noise });
      expect(bitsPerDim).toBeCloseTo(VECTORS.scores[noise], 4);
    }
  });
});
