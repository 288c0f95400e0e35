/**
 * Inverting one autoregressive block: latents in, patches out, in prefix-committing windows. The
 * same algorithm as runtime/sampler.py, which explains it; W = 1 is plain sequential sampling.
 */

import { away, type Guidance } from "./guidance";

/** An opened autoregressive block with its KV cache; see docs/bundle.md. */
export interface Stage {
  /** Run the patches position..position+W-1; their cache rows are (over)written.
   * @param x [W, D] patches in the block's own order, all finite.
   * @returns affine parameters of the patches position+1..position+W, which the next call may
   *   overwrite. */
  step(x: Float32Array, position: number): Promise<Affine>;
}

/** [W, branches, ...] rows of `stride` values: xb from `offsetB` on; xa likewise, or zero where
 * `offsetA` is null. */
export interface Affine {
  readonly data: Float32Array;
  readonly stride: number;
  readonly offsetA: number | null;
  readonly offsetB: number;
}

// Where the guesses of a call move by so much together, or one is not finite, they are clipped to
// +-GUESS_LIMIT: a NaN behind the causal mask would still poison the attention's values. Far above
// anything a trained model commits, which is never clipped.
const GUESS_LIMIT = 1e4;
const PATIENCE = 8; // calls between two looks at whether a window pays

export interface Windows {
  readonly window: number;
  /** Largest change of a patch that counts as none. */
  readonly tolerance: number;
  /** Where PATIENCE calls commit fewer patches on average, the block goes on with W = 1. */
  readonly minCommitted: number;
}

/** Sample one block.
 * @param x [T, D] latents in the block's order; becomes the patches, in place.
 * @param weights [T - 1], from guidanceWeights().
 * @yields the number of committed patches after every call. */
export async function* invert(
  stage: Stage, x: Float32Array, patchDim: number, guidance: Guidance, weights: Float32Array,
  { window, tolerance, minCommitted }: Windows,
): AsyncGenerator<number, void, void> {
  const T = x.length / patchDim;
  const z = x.slice();
  const found = new Float32Array(Math.min(window, T) * patchDim);
  const sequential = window === 1;
  let p = 0, calls = 0, since = 0;
  while (p < T - 1) {
    const n = Math.min(window, T - 1 - p);
    const affine = await stage.step(x.subarray(p * patchDim, (p + n) * patchDim), p);
    evaluate(affine, z, found, patchDim, p, n, guidance, weights);
    let settled = 0, moved = 0;
    for (let i = 0; i < n; i++) {
      const change = largestChange(found, x, i * patchDim, (p + 1 + i) * patchDim, patchDim);
      if (i === settled && i < n - 1 && change <= tolerance) settled++;
      moved += change;
    }
    if (n > 1 && !(moved < GUESS_LIMIT)) {
      for (let i = patchDim; i < n * patchDim; i++) found[i] = bounded(found[i]);
    }
    x.set(found.subarray(0, n * patchDim), (p + 1) * patchDim);
    p += 1 + settled;
    calls++;
    if (!sequential && calls % PATIENCE === 0) {
      if (p - since < PATIENCE * minCommitted) window = 1;
      since = p;
    }
    yield p + 1;
  }
}

/** found = z * exp(xa) + xb, guided, in float32. */
function evaluate(
  { data, stride, offsetA, offsetB }: Affine, z: Float32Array, found: Float32Array,
  patchDim: number, p: number, n: number, { scale, what }: Guidance, weights: Float32Array,
): void {
  const guided = scale > 0;
  const guideA = guided && what !== "b";
  const guideB = guided && what !== "a";
  const rows = guided ? 2 : 1; // of a patch; the second is the unconditional branch
  for (let i = 0; i < n; i++) {
    const weight = weights[p + i];
    for (let d = 0; d < patchDim; d++) {
      const at = i * rows * stride + d;
      let xb = data[at + offsetB];
      if (guideB) xb = away(xb, data[at + offsetB + stride], weight);
      let value = z[(p + 1 + i) * patchDim + d];
      if (offsetA !== null) {
        let xa = data[at + offsetA];
        if (guideA) xa = away(xa, data[at + offsetA + stride], weight);
        value = Math.fround(value * Math.fround(Math.exp(xa)));
      }
      found[i * patchDim + d] = value + xb;
    }
  }
}

/** Between -GUESS_LIMIT and GUESS_LIMIT; NaN becomes -GUESS_LIMIT, as fmax gives it. */
function bounded(value: number): number {
  return value >= -GUESS_LIMIT ? Math.min(value, GUESS_LIMIT) : -GUESS_LIMIT;
}

/** Largest change of a patch, found[i..] against x[at..]; NaN where one value is NaN. */
function largestChange(
  found: Float32Array, x: Float32Array, i: number, at: number, patchDim: number,
): number {
  let largest = 0;
  for (let d = 0; d < patchDim; d++) {
    const moved = Math.abs(Math.fround(found[i + d] - x[at + d]));
    if (!(moved <= largest)) largest = moved;
    if (Number.isNaN(largest)) return NaN;
  }
  return largest;
}
