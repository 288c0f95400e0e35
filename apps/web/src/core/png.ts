/** PNG files that carry the recipe of their picture, in the text chunks that Python writes. */

import { crc32 } from "./crc32";
import { messageOf, usageError } from "./errors";
import { describeRecipe, dumpRecipe, loadRecipe, type Recipe } from "./recipe";
import type { Pixels } from "../engine/api";

const RECIPE_KEY = "flowship";
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_TEXT = 4 << 20; // characters of a recipe that is read
const COLOR_TYPES = { 1: 0, 3: 2, 4: 6 } as const;

/** A PNG of one picture, with its recipe in the chunks `flowship`, `Software` and `Description`. */
export async function encodePng(pixels: Pixels, recipe: Recipe | null = null): Promise<Uint8Array<ArrayBuffer>> {
  const { width, height, channels, data } = pixels;
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, COLOR_TYPES[channels], 0, 0, 0], 8);
  const chunks = [chunk("IHDR", header)];
  if (recipe) {
    chunks.push(chunk("tEXt", latin1(`${RECIPE_KEY}\0${dumpRecipe(recipe)}`)));
    chunks.push(chunk("tEXt", latin1(`Software\0flowship ${recipe.flowshipVersion}`)));
    // iTXt: a name may not be Latin-1. Key, not compressed, no language, no translated key.
    const description = new TextEncoder().encode(`Description\0\0\0\0\0${describeRecipe(recipe)}`);
    chunks.push(chunk("iTXt", description));
  }
  const stride = width * channels;
  const rows = new Uint8Array((stride + 1) * height); // filter 0 before each row
  for (let y = 0; y < height; y++) {
    rows.set(data.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  }
  chunks.push(chunk("IDAT", await pipe(rows, new CompressionStream("deflate"))));
  chunks.push(chunk("IEND", new Uint8Array()));
  return concat([Uint8Array.from(SIGNATURE), ...chunks]);
}

/** The recipe in a PNG that flowship wrote, null where there is none; the pixels are not decoded.
 * @throws FlowshipError (usage) not a PNG, or its recipe is damaged or too new. */
export async function readPngRecipe(file: Blob | Uint8Array): Promise<Recipe | null> {
  const data = file instanceof Uint8Array ? file : new Uint8Array(await file.arrayBuffer());
  for (const [type, body] of chunksOf(data)) {
    const text = await readText(type, body);
    if (text !== null) return loadRecipe(text);
  }
  return null;
}

/** The text of RECIPE_KEY in a chunk of any of PNG's three kinds of text. */
async function readText(type: string, body: Uint8Array): Promise<string | null> {
  const kinds = ["tEXt", "zTXt", "iTXt"];
  if (!kinds.includes(type) || !startsWith(body, [...latin1(RECIPE_KEY), 0])) return null;
  let rest = body.subarray(RECIPE_KEY.length + 1);
  let packed = false;
  if (type === "zTXt") {
    packed = true;
    rest = rest.subarray(1);
  } else if (type === "iTXt") {
    packed = rest[0] === 1;
    const language = rest.indexOf(0, 2);
    rest = rest.subarray(rest.indexOf(0, language + 1) + 1);
  }
  try {
    const bytes = packed ? await inflate(rest) : rest;
    if (bytes.length > MAX_TEXT) throw new Error(`more than ${MAX_TEXT} characters`);
    return new TextDecoder(type === "iTXt" ? "utf-8" : "latin1", { fatal: true }).decode(bytes);
  } catch (error) {
    throw usageError(`the picture's recipe cannot be read: ${messageOf(error)}`);
  }
}

function* chunksOf(data: Uint8Array): Generator<[string, Uint8Array]> {
  if (!startsWith(data, SIGNATURE)) throw usageError("the file is not a PNG");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = SIGNATURE.length; at + 12 <= data.length; ) {
    const length = view.getUint32(at);
    const end = at + 12 + length;
    if (end > data.length) throw usageError("the PNG is cut off");
    const type = String.fromCharCode(...data.subarray(at + 4, at + 8));
    if (crc32(data.subarray(at + 4, end - 4)) !== view.getUint32(end - 4)) {
      throw usageError(`the PNG is damaged: the checksum of its ${JSON.stringify(type)} is wrong`);
    }
    yield [type, data.subarray(at + 8, end - 4)];
    at = end;
  }
}

/** zlib data to at most MAX_TEXT bytes; a bomb ends there. */
async function inflate(data: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([data.slice()]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const pieces: Uint8Array[] = [];
  for (let total = 0; ; ) {
    const { value, done } = await reader.read();
    if (done) return concat(pieces);
    total += value.length;
    if (total > MAX_TEXT) {
      await reader.cancel();
      throw new Error(`more than ${MAX_TEXT} characters`);
    }
    pieces.push(value);
  }
}

function chunk(type: string, body: Uint8Array): Uint8Array {
  const found = new Uint8Array(body.length + 12);
  const view = new DataView(found.buffer);
  view.setUint32(0, body.length);
  found.set(latin1(type), 4);
  found.set(body, 8);
  view.setUint32(body.length + 8, crc32(found.subarray(4, body.length + 8)));
  return found;
}

async function pipe(data: Uint8Array<ArrayBuffer>, through: CompressionStream): Promise<Uint8Array> {
  const stream = new Blob([data]).stream().pipeThrough(through);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function latin1(text: string): Uint8Array {
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

function startsWith(data: Uint8Array, start: readonly number[]): boolean {
  return start.every((byte, i) => data[i] === byte);
}

function concat(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    found.set(piece, at);
    at += piece.length;
  }
  return found;
}
