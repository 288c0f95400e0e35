/** JSON as the server sends it, and what the app makes of it. It is the page's own origin, and its
 * answers are data only. */

import type { ModelInfo, Pixels, Progress } from "../engine/api";

export interface ServerPixels { width: number; height: number; channels: 1 | 3 | 4; data: string }
export interface ServerBundle {
  id: string; name: string; sha256: string; bytes: number; width: number; height: number; channels: number;
  classes: string[]; precisions: string[]; guidance: boolean; denoise_precisions: string[];
  training_noise: ModelInfo["trainingNoise"]; num_blocks: number; num_patches: number; patch_size: number;
  num_parameters: number | null; licence: string | null; source_file: string; engine: ModelInfo["engine"];
}
export interface ServerStarted { num_blocks: number; num_patches: number }
export interface ServerProgress {
  block: string; block_index: number; patches: number; num_patches: number; fraction: number;
  seconds: number; seconds_left: number; previews?: ServerPixels[];
}
export interface ServerPicture { index: number; pixels: ServerPixels; recipe: string }
export interface ServerScore { bits_per_dim: number; nll: number; logdet: number; convention: string; input: ServerPixels }
export interface ServerEncoded { z: string; logdet: number; input: ServerPixels }

export function toInfo(bundle: ServerBundle, precision = bundle.engine.precision): ModelInfo {
  const { id, name, sha256, bytes, width, height, channels, classes, precisions, guidance, licence } = bundle;
  return {
    id, name, sha256, bytes, removable: false, width, height, channels, classes, precisions, guidance, licence,
    denoise: bundle.denoise_precisions.includes(precision), engine: { ...bundle.engine, precision },
    engineName: bundle.engine.name,
    trainingNoise: bundle.training_noise, numBlocks: bundle.num_blocks, numPatches: bundle.num_patches,
    patchSize: bundle.patch_size, numParameters: bundle.num_parameters, sourceFile: bundle.source_file,
  };
}

export function toProgress(event: ServerProgress): Progress {
  const preview = event.previews?.[0];
  return {
    kind: "progress", block: event.block, blockIndex: event.block_index, patches: event.patches,
    numPatches: event.num_patches, fraction: event.fraction, seconds: event.seconds,
    secondsLeft: event.seconds_left, preview: preview ? toPixels(preview) : null,
  };
}

export const toPixels = (pixels: ServerPixels): Pixels => ({ ...pixels, data: decodeBytes(pixels.data) });

function decodeBytes(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function encodeBytes(bytes: Uint8Array | Uint8ClampedArray): string {
  const parts: string[] = [];
  // A call has a limited number of arguments.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  }
  return btoa(parts.join(""));
}

/** Little-endian float32: every platform that runs a browser is. */
export const decodeFloats = (text: string): Float32Array => new Float32Array(decodeBytes(text).buffer);
export const encodeFloats = (values: Float32Array): string =>
  encodeBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
