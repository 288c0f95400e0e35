/**
 * Philox4x32-10: random 32-bit words from (seed, index, domain), the same in every language.
 *
 * Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * word(seed, n, domain): counter (lo32(n div 4), hi32(n div 4), domain, 0), key (lo32(seed),
 * hi32(seed)); the word is output n mod 4.
 */

import { usageError } from "./errors";

const ROUNDS = 10;

/** Four 32-bit words of one counter and key, written to out[at..at + 3]. */
export function philox4x32(
  c0: number, c1: number, c2: number, c3: number, k0: number, k1: number,
  out: Uint32Array, at = 0,
): void {
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low0 = Math.imul(0xd2511f53, c0);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[at] = c0;
  out[at + 1] = c1;
  out[at + 2] = c2;
  out[at + 3] = c3;
}

/** `count` words of the stream of `seed` from index `start` (a multiple of 4) on.
 * @param seed 0 to 2^64 - 1
 * @param domain 0 to 2^32 - 1; separates independent uses of one seed */
export function words(seed: bigint, count: number, start = 0, domain = 0): Uint32Array {
  if (seed < 0n || seed >= 1n << 64n) throw usageError(`seed ${seed} is not between 0 and 2^64 - 1`);
  if (start % 4 || start < 0 || !Number.isSafeInteger(start + count)) {
    throw usageError(`start ${start} is not a multiple of 4, or too large`);
  }
  const out = new Uint32Array(Math.ceil(count / 4) * 4);
  const low = Number(seed & 0xffffffffn);
  const high = Number(seed >> 32n);
  for (let at = 0, block = start / 4; at < count; at += 4, block++) {
    philox4x32(block >>> 0, Math.floor(block / 2 ** 32), domain, 0, low, high, out, at);
  }
  return out.subarray(0, count);
}

/** Upper 32 bits of a 32 x 32 bit product, from 16-bit halves: no double holds all of it. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff, aHigh = a >>> 16;
  const bLow = b & 0xffff, bHigh = b >>> 16;
  const lowHigh = aLow * bHigh;
  const highLow = aHigh * bLow;
  const middle = ((aLow * bLow) >>> 16) + (lowHigh & 0xffff) + (highLow & 0xffff); // below 2^18
  return aHigh * bHigh + (lowHigh >>> 16) + (highLow >>> 16) + (middle >>> 16);
}
