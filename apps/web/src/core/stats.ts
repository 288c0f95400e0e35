/** Order statistics of timing samples, as benchmarks have them in Python: they are skewed, so means are not used. */

const Z = 1.96; // two-sided 95 % of the normal distribution
const PARTS = 5; // a series is cut into so many
const MIN_PART = 3; // samples, at least

/** Linear interpolation between the two nearest samples, as numpy's default. */
export function percentile(samples: readonly number[], percent: number): number {
  const ordered = samples.toSorted((a, b) => a - b);
  const at = ((ordered.length - 1) * percent) / 100;
  const below = Math.floor(at);
  const above = Math.min(below + 1, ordered.length - 1);
  return ordered[below] + (ordered[above] - ordered[below]) * (at - below);
}

/** Distance between the quartiles over the median. */
export function relativeIqr(samples: readonly number[]): number {
  return (percentile(samples, 75) - percentile(samples, 25)) / percentile(samples, 50);
}

/** Half the 95 % interval of the median over the median, from ranks: no distribution assumed. */
export function medianUncertainty(samples: readonly number[]): number {
  const ordered = samples.toSorted((a, b) => a - b);
  const reach = (Z * Math.sqrt(ordered.length)) / 2;
  const low = Math.max(0, Math.trunc(ordered.length / 2 - reach));
  const high = Math.min(ordered.length - 1, Math.trunc(ordered.length / 2 + reach));
  return (ordered[high] - ordered[low]) / 2 / percentile(ordered, 50);
}

/** How far the medians of consecutive parts lie apart, over the median of all: a machine that changes while it
 * measures shows here and nowhere else. Series that are too short for parts have none. */
export function drift(samples: readonly number[]): number {
  if (samples.length < PARTS * MIN_PART) return 0;
  const medians: number[] = [];
  for (let part = 0, at = 0; part < PARTS; part++) {
    const length = Math.floor(samples.length / PARTS) + (part < samples.length % PARTS ? 1 : 0);
    medians.push(percentile(samples.slice(at, at + length), 50));
    at += length;
  }
  return (Math.max(...medians) - Math.min(...medians)) / percentile(samples, 50);
}
