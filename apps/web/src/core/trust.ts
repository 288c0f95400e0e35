/** The verdict on a series of samples, with every reason; the rules and numbers of `flowship bench`. */

import { drift, medianUncertainty, relativeIqr } from "./stats";

export type Trust = "trusted" | "noisy" | "not trustworthy";
const TRUSTS: readonly Trust[] = ["trusted", "noisy", "not trustworthy"];

export const MIN_SAMPLES = 3;
export const TRUSTED_SAMPLES = 10;
export const MIN_SECONDS = 1; // from the first sample to the last: less is one mood of the machine
// Above the first number it is noisy, above the second not trustworthy.
const SPREAD = [0.15, 0.4] as const; // distance of the quartiles over the median
const UNCERTAIN = [0.05, 0.2] as const; // half the 95 % interval of the median over the median
const DRIFT = [0.15, 0.4] as const; // distance of the medians of five consecutive parts over the median

export interface Verdict {
  readonly trust: Trust;
  readonly reasons: readonly string[];
}

/** @param spanSeconds From the first sample to the last. */
export function judge(samples: readonly number[], spanSeconds: number): Verdict {
  const found = [...few(samples.length, spanSeconds), ...scattered(samples)];
  const level = Math.max(0, ...found.map(([doubt]) => doubt));
  return { trust: TRUSTS[level], reasons: found.map(([, reason]) => reason) };
}

type Doubt = readonly [level: number, reason: string];

function few(count: number, seconds: number): Doubt[] {
  if (count < MIN_SAMPLES) return [[2, `${count} samples are too few, ${MIN_SAMPLES} are the least`]];
  if (count < TRUSTED_SAMPLES) {
    return [[1, `${count} samples, ${TRUSTED_SAMPLES} are the least that is trusted`]];
  }
  if (seconds < MIN_SECONDS) {
    return [[1, `measured for ${Number(seconds.toPrecision(1))} s, ${MIN_SECONDS} s are the least that is trusted`]];
  }
  return [];
}

function scattered(samples: readonly number[]): Doubt[] {
  const [spread, unsure, moved] = [relativeIqr(samples), medianUncertainty(samples), drift(samples)];
  const found: Doubt[] = [
    [levelOf(spread, SPREAD), `the middle half of the samples is ${percent(spread)} wide`],
    [levelOf(unsure, UNCERTAIN), `the median is uncertain by ±${percent(unsure)}`],
    [levelOf(moved, DRIFT), `the medians of its five parts lie ${percent(moved)} apart`],
  ];
  return found.filter(([level]) => level > 0);
}

const levelOf = (value: number, limits: readonly number[]): number => limits.filter((limit) => value > limit).length;
const percent = (value: number): string => `${Math.round(value * 100)}%`;
