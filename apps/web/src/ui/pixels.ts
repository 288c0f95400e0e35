/** Pictures between files, canvases and the engine. */

import type { Pixels } from "../engine/api";
import { usageError } from "../core/errors";

const MAX_SIDE = 8192; // pixels; a larger file could take gigabytes once it is decoded
const MAX_FILE = 64 << 20; // bytes

/** As a canvas wants it. */
export function toImageData(pixels: Pixels): ImageData {
  const { width, height, channels, data } = pixels;
  const found = new ImageData(width, height);
  for (let i = 0, at = 0; i < width * height; i++, at += channels) {
    const grey = channels === 1;
    found.data[4 * i] = data[at]!;
    found.data[4 * i + 1] = data[grey ? at : at + 1]!;
    found.data[4 * i + 2] = data[grey ? at : at + 2]!;
    found.data[4 * i + 3] = channels === 4 ? data[at + 3]! : 255;
  }
  return found;
}

/** Shows pixels in a canvas, which keeps its size on the page. */
export function paint(canvas: HTMLCanvasElement, pixels: Pixels): void {
  if (canvas.width !== pixels.width) canvas.width = pixels.width;
  if (canvas.height !== pixels.height) canvas.height = pixels.height;
  canvas.getContext("2d")!.putImageData(toImageData(pixels), 0, 0);
}

/** The pixels of a picture file.
 * @throws FlowshipError not a picture that the browser reads, or too large. */
export async function decodeFile(file: Blob, name: string): Promise<Pixels> {
  if (file.size > MAX_FILE) throw usageError(`${name} has ${file.size} bytes, at most ${MAX_FILE}`);
  await checkSize(file, name);
  let bitmap: ImageBitmap;
  try {
    // No colour management and no alpha multiplication: the stored bytes.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (cause) {
    throw usageError(`${name} is not a picture that this browser can read (${String(cause)})`);
  }
  try {
    return fromBitmap(bitmap);
  } finally {
    bitmap.close();
  }
}

/** Before its pixels are unpacked: an image element reads no more than the size until it is drawn. */
async function checkSize(file: Blob, name: string): Promise<void> {
  const url = URL.createObjectURL(file);
  const image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(usageError(`${name} is not a picture that this browser can read`));
      image.src = url;
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width > MAX_SIDE || height > MAX_SIDE) {
      throw usageError(`${name} has ${width} x ${height} pixels, at most ${MAX_SIDE} a side`);
    }
  } finally {
    URL.revokeObjectURL(url);
  }
}

function fromBitmap(bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  return { width, height, channels: 4, data: context.getImageData(0, 0, width, height).data };
}

/** The same picture with 1 or 3 channels, taken as they are stored. */
export function withChannels(pixels: Pixels, channels: 1 | 3): Pixels {
  if (pixels.channels === channels) return pixels;
  const data = new Uint8Array(pixels.width * pixels.height * channels);
  const rgba = toImageData(pixels).data;
  for (let i = 0; i < pixels.width * pixels.height; i++) {
    for (let c = 0; c < channels; c++) data[i * channels + c] = rgba[4 * i + c]!;
  }
  return { ...pixels, channels, data };
}

export interface Difference {
  readonly values: number;
  readonly different: number;
  readonly largest: number;
}

/** Compares 8-bit values; null where the shapes differ. */
export function compare(a: Pixels, b: Pixels): Difference | null {
  if (a.width !== b.width || a.height !== b.height || a.channels !== b.channels) return null;
  let different = 0;
  let largest = 0;
  for (let i = 0; i < a.data.length; i++) {
    const change = Math.abs(a.data[i]! - b.data[i]!);
    if (change) different++;
    largest = Math.max(largest, change);
  }
  return { values: a.data.length, different, largest };
}

/** A latent [T, D] in the order of the patches as a grey or colour picture; -3 is black, 3 white.
 *
 * A patch's D values are its channels one after another, each row by row. */
export function latentPicture(
  z: Float32Array, width: number, height: number, channels: number, patch: number,
): Pixels {
  const shown = channels === 3 ? 3 : 1;
  const data = new Uint8Array(width * height * shown);
  const [across, dims] = [width / patch, patch * patch * channels];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const t = Math.floor(y / patch) * across + Math.floor(x / patch);
      for (let c = 0; c < shown; c++) {
        const d = (c * patch + (y % patch)) * patch + (x % patch);
        const level = (z[t * dims + d]! / 6 + 0.5) * 255;
        data[(y * width + x) * shown + c] = Math.min(255, Math.max(0, Math.round(level)));
      }
    }
  }
  return { width, height, channels: shown, data };
}
