/**
 * A picture of any size as the model saw its training pictures; the port of runtime/prepare.py with
 * pillow's integer arithmetic, so that both give the same bytes.
 */

import { usageError } from "./errors";
import type { ImageSpec } from "./spec";
import type { Pixels } from "../engine/api";
import { roundHalfEven } from "./images";

const MAX_SIDE = 1 << 16; // of a resized picture; a line of pixels would take all memory
const PRECISION_BITS = 22; // of pillow's resampling weights: 32 - 8 - 2

/** The shorter side becomes imgSize (bilinear with antialiasing), then the middle is cut out. Before
 * that the picture is laid on white where it is transparent and made grey or RGB. */
export function prepare(image: Pixels, spec: Pick<ImageSpec, "imgSize" | "inChannels">): Pixels {
  const { width, height, channels, data } = image;
  if (spec.inChannels !== 1 && spec.inChannels !== 3) {
    throw usageError(`the model's pictures have ${spec.inChannels} channels, which no picture file has`);
  }
  if (width < 1 || height < 1 || data.length !== width * height * channels) {
    throw usageError(`a picture of ${width} x ${height} pixels with ${data.length} values`);
  }
  return resizeAndCrop(toModel(onWhite(image), spec.inChannels), spec.imgSize);
}

/** What prepare() changes about a picture, in words: "made smaller", "cropped to its middle", ...; none where
 * the model sees the pixels as they are. */
export function changesOf(image: Pixels, spec: Pick<ImageSpec, "imgSize" | "inChannels">): string[] {
  const { width, height } = image;
  const found: string[] = [];
  if (isTransparent(image)) found.push("laid on white where it is transparent");
  if (spec.inChannels === 1 && isColoured(image)) found.push("turned to grey");
  const short = Math.min(width, height);
  if (short !== spec.imgSize) found.push(short > spec.imgSize ? "made smaller" : "made larger");
  if (width !== height) found.push("cropped to its middle");
  return found;
}

function isTransparent({ channels, data }: Pixels): boolean {
  if (channels !== 4) return false;
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return true;
  return false;
}

function isColoured({ channels, data }: Pixels): boolean {
  if (channels === 1) return false;
  for (let i = 0; i < data.length; i += channels) {
    if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return true;
  }
  return false;
}

/** pillow's alpha_composite over opaque white. */
function onWhite(image: Pixels): Pixels {
  if (image.channels !== 4) return image;
  const { data } = image;
  const found = new Uint8Array((data.length / 4) * 3);
  for (let i = 0, j = 0; i < data.length; i += 4, j += 3) {
    // Blend weights with 7 extra bits; 0x80 rounds, v + (v >> 8) >> 8 divides by 255.
    const alpha = data[i + 3] * 128;
    for (let c = 0; c < 3; c++) {
      const sum = data[i + c] * alpha + 255 * (255 * 128 - alpha) + (0x80 << 7);
      found[j + c] = ((sum >> 8) + sum) >> 8 >> 7;
    }
  }
  return { ...image, channels: 3, data: found };
}

function toModel(image: Pixels, channels: 1 | 3): Pixels {
  const { data } = image;
  if (image.channels === channels) return image;
  const found = new Uint8Array((data.length / image.channels) * channels);
  for (let i = 0; i < found.length / channels; i++) {
    if (channels === 3) found.fill(data[i], 3 * i, 3 * i + 3);
    // ITU-R 601-2 luma in 16-bit fixed point, as pillow computes it.
    else found[i] = (data[3 * i] * 19595 + data[3 * i + 1] * 38470 + data[3 * i + 2] * 7471 + 0x8000) >> 16;
  }
  return { ...image, channels, data: found };
}

function resizeAndCrop(image: Pixels, size: number): Pixels {
  const { width, height } = image;
  const short = Math.min(width, height);
  const long = Math.max(width, height);
  let resized = image;
  if (short !== size) {
    const other = Math.max(size, Math.floor((size * long) / short));
    if (other > MAX_SIDE) throw usageError(`a picture of ${width} x ${height} pixels is too narrow`);
    resized = height >= width ? resize(image, size, other) : resize(image, other, size);
  }
  const left = roundHalfEven((resized.width - size) / 2);
  const top = roundHalfEven((resized.height - size) / 2);
  return crop(resized, left, top, size);
}

/** pillow's resize with BILINEAR: first rows, then columns, each rounded to 8 bits. */
function resize(image: Pixels, width: number, height: number): Pixels {
  const across = width === image.width ? image : resample(image, width, "x");
  return height === image.height ? across : resample(across, height, "y");
}

function resample(image: Pixels, size: number, axis: "x" | "y"): Pixels {
  const { channels, data } = image;
  const [width, height] = axis === "x" ? [size, image.height] : [image.width, size];
  const filters = filtersFor(axis === "x" ? image.width : image.height, size);
  const found = new Uint8Array(width * height * channels);
  const step = axis === "x" ? channels : image.width * channels;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, weights } = filters[axis === "x" ? x : y];
      const start = axis === "x"
        ? (y * image.width + first) * channels : (first * image.width + x) * channels;
      for (let c = 0; c < channels; c++, at++) {
        let sum = 1 << (PRECISION_BITS - 1);
        weights.forEach((weight, k) => (sum += data[start + c + k * step] * weight));
        found[at] = Math.min(Math.max(sum >> PRECISION_BITS, 0), 255);
      }
    }
  }
  return { width, height, channels, data: found };
}

/** For each output pixel the first input pixel and the fixed-point weights of a triangle. */
function filtersFor(input: number, output: number): { first: number; weights: number[] }[] {
  const scale = input / output;
  const support = Math.max(scale, 1); // of the triangle, which widens when a picture shrinks
  return Array.from({ length: output }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), input);
    const raw = Array.from({ length: end - first }, (_, k) =>
      Math.max(1 - Math.abs((k + first - center + 0.5) * (1 / support)), 0),
    );
    const total = raw.reduce((a, b) => a + b, 0);
    const weights = raw.map((w) => Math.trunc(0.5 + (total ? w / total : w) * (1 << PRECISION_BITS)));
    return { first, weights };
  });
}

function crop({ width, channels, data }: Pixels, left: number, top: number, size: number): Pixels {
  const found = new Uint8Array(size * size * channels);
  for (let y = 0; y < size; y++) {
    const start = ((top + y) * width + left) * channels;
    found.set(data.subarray(start, start + size * channels), y * size * channels);
  }
  return { width: size, height: size, channels, data: found };
}
