/**
 * Classifier-free guidance on the affine parameters (xa, xb): xa + g (xa - xa_u), and the same for
 * xb, where the unconditional branch u uses the mean class row and queries divided by the attention
 * temperature. Annealed guidance grows with the patch number i = 1..T-1 as g i / (T - 1).
 */

import { usageError } from "./errors";

export interface Guidance {
  /** 0 is no guidance. */
  readonly scale: number;
  /** "a" guides the scale xa, "b" the shift xb, "ab" both. */
  readonly what: "ab" | "a" | "b";
  readonly annealed: boolean;
  /** Temperature of the unconditional branch's attention. */
  readonly attnTemp: number;
}

export const NO_GUIDANCE: Guidance = { scale: 0, what: "ab", annealed: false, attnTemp: 1 };

export function checkGuidance({ scale, what, attnTemp }: Guidance): void {
  if (!(scale >= 0 && scale < Infinity)) throw usageError(`guidance ${scale} is not a number from 0 up`);
  if (!["ab", "a", "b"].includes(what)) throw usageError(`guide_what '${what}' is not one of ab, a, b`);
  if (!(attnTemp > 0 && attnTemp < Infinity)) {
    throw usageError(`attn_temp ${attnTemp} is not a number above 0`);
  }
}

export function branchesOf(guidance: Guidance): 1 | 2 {
  return guidance.scale > 0 ? 2 : 1;
}

/** [T - 1] guidance scale of the parameters that patch p = 0..T-2 gives. */
export function guidanceWeights(guidance: Guidance, numPatches: number): Float32Array {
  const { scale, annealed } = guidance;
  return Float32Array.from({ length: numPatches - 1 }, (_, i) =>
    annealed ? ((i + 1) / (numPatches - 1)) * scale : scale,
  );
}

/** value + weight (value - unconditional), rounded to float32 after each operation. */
export function away(value: number, unconditional: number, weight: number): number {
  return Math.fround(Math.fround(Math.fround(value - unconditional) * weight) + value);
}
