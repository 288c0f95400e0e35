/** Timing pictures until there is enough for a verdict, and the row of `flowship bench` that comes of it. */

import type { Row } from "../core/bench_row";
import { separate } from "../core/images";
import { sha256 } from "../core/sha256";
import { medianUncertainty, percentile, relativeIqr } from "../core/stats";
import { judge, MIN_SAMPLES, MIN_SECONDS, TRUSTED_SAMPLES } from "../core/trust";
import type { EngineInfo, OnProgress, Picture } from "./api";

/** Until the browser has optimized the code, which takes pictures or, of large models, seconds. */
const WARM_UP = { pictures: 10, seconds: 3 };
const UNCERTAINTY = 0.02; // a median that is known this well ends it
const ENOUGH = { pictures: 100, seconds: 15 };
const PATIENCE = 60; // seconds, after which slow pictures end with fewer samples than a verdict wants

export interface Timed {
  /** In order, milliseconds. */
  readonly samples: readonly number[];
  /** From the first sample to the last. */
  readonly spanSeconds: number;
  readonly last: Picture;
}

/** Makes a picture; its `seconds` are the sample. */
export type MakePicture = () => Promise<Picture>;

/** Time pictures one after another, after some that do not count. */
export async function timePictures(make: MakePicture, onProgress?: OnProgress): Promise<Timed> {
  const begun = performance.now();
  const since = (start: number) => (performance.now() - start) / 1000;
  const tell = (fraction: number) => {
    const seconds = since(begun);
    onProgress?.({
      kind: "progress", block: "", blockIndex: 0, patches: 0, numPatches: 0, fraction, seconds,
      secondsLeft: (seconds * (1 - fraction)) / Math.max(fraction, 1e-3), preview: null,
    });
  };
  for (let i = 1; ; i++) {
    await make();
    const done = Math.max(i / WARM_UP.pictures, since(begun) / WARM_UP.seconds);
    tell(0.3 * Math.min(1, done));
    if (done >= 1) break;
  }
  const samples: number[] = [];
  const start = performance.now();
  let fraction = 0;
  for (;;) {
    const last = await make();
    samples.push(last.seconds * 1000);
    const spanSeconds = since(start);
    if (isDone(samples, spanSeconds)) return { samples, spanSeconds, last };
    fraction = Math.max(fraction, doneOf(samples, spanSeconds));
    tell(0.3 + 0.7 * fraction);
  }
}

export function isDone(samples: readonly number[], seconds: number): boolean {
  const { length: count } = samples;
  if (seconds >= PATIENCE) return count >= MIN_SAMPLES;
  if (count < TRUSTED_SAMPLES || seconds < MIN_SECONDS) return false;
  return count >= ENOUGH.pictures || seconds >= ENOUGH.seconds || medianUncertainty(samples) <= UNCERTAINTY;
}

/** How far it is; uncertainty falls with the root of the samples. */
function doneOf(samples: readonly number[], seconds: number): number {
  const { length: count } = samples;
  const least = Math.min(count / TRUSTED_SAMPLES, seconds / MIN_SECONDS);
  if (least < 1) return Math.max(0.5 * least, seconds / PATIENCE);
  const certain = (UNCERTAINTY / medianUncertainty(samples)) ** 2;
  return Math.max(0.5, Math.min(0.99, certain), count / ENOUGH.pictures, seconds / ENOUGH.seconds);
}

/** What a row says beside the times and the recipe. */
export interface RowFacts {
  readonly window: string;
  readonly engine: EngineInfo;
  readonly numPatches: number;
  readonly loadMs: number | null;
  readonly conditions: string;
  readonly machine: Pick<Row, "cores" | "memory_gb" | "os">;
}

const MAX_SAFE_SEED = 2n ** 53n;

export function rowOf({ samples, spanSeconds, last: { pixels, recipe } }: Timed, facts: RowFacts): Row {
  const median = percentile(samples, 50);
  const { trust, reasons } = judge(samples, spanSeconds);
  const seed = recipe.seeds[0];
  return {
    model: recipe.bundle, engine: facts.engine.name, samples_ms: samples, status: "ok",
    time_utc: `${new Date().toISOString().slice(0, 19)}Z`,
    flowship_version: recipe.flowshipVersion, machine: null, ...facts.machine,
    model_sha256: recipe.bundleSha256, engine_version: facts.engine.version, precision: facts.engine.precision,
    device: facts.engine.device, threads: facts.engine.threads, window: facts.window, plan_sha256: recipe.planSha256,
    guidance: recipe.guidance, label: recipe.labels[0] ?? null, seed: seed < MAX_SAFE_SEED ? Number(seed) : null,
    samples_used: samples.length,
    median_ms: median, p50_ms: median, p90_ms: percentile(samples, 90), p99_ms: percentile(samples, 99),
    min_ms: Math.min(...samples), spread: relativeIqr(samples), median_uncertainty: medianUncertainty(samples),
    images_per_min: 60_000 / median, patches_per_s: (facts.numPatches * 1000) / median,
    num_patches: facts.numPatches, load_ms: facts.loadMs,
    output_sha256: sha256(separate(Uint8Array.from(pixels.data), pixels.channels)),
    conditions: facts.conditions, notes: [], trust, trust_reasons: reasons,
  };
}
