/** Pictures as arrays: patches, block order, and the 8-bit rule. */

import { FlowshipError } from "./errors";
import type { ImageSpec } from "./spec";

/** [C, H, W] to [T, D]: patches row by row, each in the order channel, row, column. */
export function patchify(image: Float32Array, spec: ImageSpec): Float32Array {
  const patches = new Float32Array(image.length);
  forEachValue(spec, (inImage, inPatches) => (patches[inPatches] = image[inImage]));
  return patches;
}

/** [T, D] to [C, H, W]: the inverse of patchify. */
export function unpatchify(patches: Float32Array, spec: ImageSpec): Float32Array {
  const image = new Float32Array(patches.length);
  forEachValue(spec, (inImage, inPatches) => (image[inImage] = patches[inPatches]));
  return image;
}

function forEachValue(spec: ImageSpec, visit: (inImage: number, inPatches: number) => void): void {
  const { imgSize, inChannels, patchSize, numPatches } = spec;
  const side = imgSize / patchSize;
  let at = 0;
  for (let t = 0; t < numPatches; t++) {
    const top = Math.floor(t / side) * patchSize;
    const left = (t % side) * patchSize;
    for (let c = 0; c < inChannels; c++) {
      for (let row = 0; row < patchSize; row++) {
        const start = (c * imgSize + top + row) * imgSize + left;
        for (let column = 0; column < patchSize; column++) visit(start + column, at++);
      }
    }
  }
}

/** A copy of [T, D] between image order and a block's own order (its own inverse). */
export function toBlockOrder(
  x: Float32Array, patchDim: number, permutation: "identity" | "flip",
): Float32Array {
  if (permutation === "identity") return x.slice();
  const flipped = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += patchDim) {
    flipped.set(x.subarray(at, at + patchDim), x.length - at - patchDim);
  }
  return flipped;
}

/** The 8-bit rule: round((clip(x, -1, 1) + 1) * 127.5), rounded to float32 after each operation and
 * halves to the even number, so that every port gives the same bytes.
 * @throws FlowshipError (nonfinite) NaN or infinity, which is never shown as a picture. */
export function toUint8(x: Float32Array): Uint8Array {
  const levels = new Uint8Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const value = x[i];
    if (!Number.isFinite(value)) {
      throw new FlowshipError("nonfinite", "a picture holds NaN or infinity: it is not written");
    }
    const clipped = Math.min(Math.max(value, -1), 1);
    levels[i] = roundHalfEven(Math.fround(Math.fround(clipped + 1) * 127.5));
  }
  return levels;
}

/** The same for a picture that is not finished: what is not finite becomes black. */
export function previewUint8(x: Float32Array): Uint8Array {
  return toUint8(x.map((value) => (Number.isFinite(value) ? value : -1)));
}

/** (u / 255 - 0.5) / 0.5 in float32, operation by operation as the models were trained. */
export function fromUint8(levels: ArrayLike<number>): Float32Array {
  return Float32Array.from(levels, (u) => Math.fround(Math.fround(u / 255) - 0.5) / 0.5);
}

export function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest > 0.5 ? below + 1 : below;
  return below % 2 === 0 ? below : below + 1;
}

/** [C, H, W] bytes to the channel order of files and screens, [H, W, C]. */
export function interleave(levels: Uint8Array, channels: number): Uint8Array {
  const size = levels.length / channels;
  return Uint8Array.from(levels, (_, i) => levels[(i % channels) * size + Math.floor(i / channels)]);
}

/** The inverse of interleave(). */
export function separate(levels: Uint8Array, channels: number): Uint8Array {
  const size = levels.length / channels;
  return Uint8Array.from(levels, (_, i) => levels[(i % size) * channels + Math.floor(i / size)]);
}
