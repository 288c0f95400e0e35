/**
 * Standard normal noise, bit-identical on every platform and in every language.
 *
 * A word m of Philox becomes u = (m + 0.5) / 2^32 and z = float32(PPND16(u)): Algorithm AS 241
 * (M. J. Wichura, Applied Statistics 37, 1988, 477-484) in binary64 with a logarithm of our own.
 * Only + - * / sqrt of binary64, integer operations and one rounding to float32 are used, and THEIR
 * ORDER IS PART OF THE DEFINITION (JavaScript never contracts a multiply-add).
 */

import { words } from "./philox";

// Numerators and denominators of AS 241's rational approximations. The third pair, for u < 2^-36,
// is left out: a 32-bit word never gives such a u.
const A = [
  3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
  45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
];
const B = [
  1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077, 21213.794301586595867,
  39307.89580009271061, 28729.085735721942674, 5226.495278852854561,
];
const C = [
  1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
  1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833,
  7.7454501427834140764e-4,
];
const D = [
  1.0, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
  0.14810397642748007459, 0.0151986665636164571966, 5.475938084995344946e-4,
  1.05075007164441684324e-9,
];
const LN2 = 0.6931471805599453;
const TWO_POW_MINUS_33 = 1.1641532182693481e-10;
const ODD = [15, 13, 11, 9, 7, 5, 3];

// The exponent bits of a double; byte order does not matter to a DataView.
const view = new DataView(new ArrayBuffer(8));

/** `count` standard normal float32 values of the stream of `seed`; arguments as in words(). */
export function normals(seed: bigint, count: number, start = 0, domain = 0): Float32Array {
  return Float32Array.from(words(seed, count, start, domain), normalOfWord);
}

/** The double whose rounding to float32 is the value of a word. */
export function normalOfWord(word: number): number {
  const q = (word * 2 + 1 - 4294967296) * TWO_POW_MINUS_33; // u - 0.5, exact
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(A, r)) / horner(B, r);
  }
  // 1 - u is the word 2^32 - 1 - m, exactly: hence z(2^32 - 1 - m) == -z(m) bit for bit.
  const r = Math.sqrt(negativeLog(q < 0 ? word : 4294967295 - word)) - 1.6;
  const tail = horner(C, r) / horner(D, r);
  return q < 0 ? 0 - tail : tail;
}

function horner(coefficients: readonly number[], r: number): number {
  let value = coefficients[7] * r + coefficients[6];
  for (let k = 5; k >= 0; k--) value = value * r + coefficients[k];
  return value;
}

/** -ln((word + 0.5) / 2^32): exponent of the odd integer 2 word + 1, atanh series to s^19. */
function negativeLog(word: number): number {
  view.setFloat64(0, word * 2 + 1);
  const high = view.getUint32(0);
  let exponent = (high >>> 20) - 1023;
  view.setUint32(0, (high & 0xfffff) | 0x3ff00000);
  let f = view.getFloat64(0); // [1, 2)
  if (f > 1.4142135623730951) {
    f *= 0.5;
    exponent++;
  }
  const s = (f - 1) / (f + 1); // |s| < 0.1716
  const w = s * s;
  let p = w * (1 / 19) + 1 / 17;
  for (const odd of ODD) p = p * w + 1 / odd;
  p = p * w + 1;
  return 0 - ((exponent - 33) * LN2 + (s + s) * p);
}
