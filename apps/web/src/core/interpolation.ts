/** Paths between two latents. */

/** Spherical interpolation, t from 0 to 1: the direction turns evenly and the length changes
 * linearly, so that latents in between stay as probable as their ends (Shoemake 1985, White 2016).
 * Parallel latents are interpolated linearly. */
export function slerp(first: Float32Array, last: Float32Array, t: number): Float32Array {
  const lengthA = Math.sqrt(dot(first, first));
  const lengthB = Math.sqrt(dot(last, last));
  const mix = (a: number, b: number) => first.map((value, i) => a * value + b * last[i]);
  if (lengthA === 0 || lengthB === 0) return mix(1 - t, t);
  const cosine = Math.min(Math.max(dot(first, last) / (lengthA * lengthB), -1), 1);
  const angle = Math.acos(cosine);
  const sine = Math.sin(angle);
  if (sine < 1e-6) return mix(1 - t, t);
  const length = ((1 - t) * lengthA + t * lengthB) / sine;
  return mix(
    (Math.sin((1 - t) * angle) / lengthA) * length,
    (Math.sin(t * angle) / lengthB) * length,
  );
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}
