/** Timing on this device: rows of `flowship bench`, and a plan of its own. */

import type { Row } from "../core/bench_row";
import { usageError } from "../core/errors";
import { guidanceWeights } from "../core/guidance";
import { separate } from "../core/images";
import { normals } from "../core/normal";
import { committedPatches, type Plan, planSha256, uniformPlan } from "../core/plan";
import { parseSeed } from "../core/recipe";
import { type Affine, invert, type Stage } from "../core/sampler";
import { sha256 } from "../core/sha256";
import { type ARBlock, arBlocks } from "../core/spec";
import { VERSION } from "../core/version";
import type { BenchmarkRequest, Calibration, OnProgress, PlanOption } from "./api";
import { type Flow, guidanceOf } from "./flow";

const WINDOWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const ROUNDS = 11;
const WARM_UP = 3;
const MIN_GAIN = 0.05; // a window must beat sequential sampling by this, or the block stays at W = 1
const MAX_SAFE_SEED = 2n ** 53n;

/** Linear interpolation between the two nearest samples, as numpy's default. */
export function percentile(samples: readonly number[], percent: number): number {
  const ordered = samples.toSorted((a, b) => a - b);
  const at = ((ordered.length - 1) * percent) / 100;
  const below = Math.floor(at);
  const above = Math.min(below + 1, ordered.length - 1);
  return ordered[below] + (ordered[above] - ordered[below]) * (at - below);
}

/** Half the 95 % interval of the median over the median, from ranks (benchmarks/stats.py). */
export function medianUncertainty(samples: readonly number[]): number {
  const ordered = samples.toSorted((a, b) => a - b);
  const reach = (1.96 * Math.sqrt(ordered.length)) / 2;
  const low = Math.max(0, Math.trunc(ordered.length / 2 - reach));
  const high = Math.min(ordered.length - 1, Math.trunc(ordered.length / 2 + reach));
  return (ordered[high] - ordered[low]) / 2 / percentile(ordered, 50);
}

/** Time pictures one after another; the first is not counted. */
export async function benchmark(
  flow: Flow, request: BenchmarkRequest, loadMs: number, onProgress?: OnProgress, signal?: AbortSignal,
): Promise<Row> {
  const { repeats = 10, window = "plan", seed = 0n, label = null } = request;
  if (!Number.isInteger(repeats) || repeats < 1 || repeats > 1000) {
    throw usageError(`repeats ${repeats} is not from 1 to 1000`);
  }
  const blocks = arBlocks(flow.spec);
  const plan = window === "plan"
    ? (request.plan ?? flow.plan) : { ...uniformPlan(blocks.map((b) => b.name), window), tolerance: flow.plan.tolerance };
  const samples: number[] = [];
  let output = "";
  const start = performance.now();
  for (let i = 0; i <= repeats; i++) {
    const { seconds, pixels } = await flow.generate({ ...request, seed, plan }, undefined, signal);
    if (i > 0) samples.push(seconds * 1000);
    output = sha256(separate(Uint8Array.from(pixels.data), pixels.channels));
    const fraction = (i + 1) / (repeats + 1);
    const elapsed = (performance.now() - start) / 1000;
    onProgress?.({
      kind: "progress", block: blocks[blocks.length - 1].name, blockIndex: blocks.length - 1,
      patches: flow.spec.image.numPatches, numPatches: flow.spec.image.numPatches, fraction,
      seconds: elapsed, secondsLeft: (elapsed * (1 - fraction)) / fraction, preview: null,
    });
  }
  const median = percentile(samples, 50);
  const exact = parseSeed(seed);
  const { name, sha256: hash } = flow.describe("", false);
  const { memory, system } = machine();
  return {
    model: name, engine: flow.info.name, samples_ms: samples, status: "ok",
    time_utc: `${new Date().toISOString().slice(0, 19)}Z`,
    flowship_version: VERSION,
    machine: null, cores: navigator.hardwareConcurrency ?? null, memory_gb: memory, os: system,
    model_sha256: hash, engine_version: flow.info.version, precision: flow.info.precision,
    device: flow.info.device, threads: flow.info.threads,
    window: window === "plan" ? "auto" : String(window), plan_sha256: planSha256(plan),
    guidance: request.guidance ?? 0, label, seed: exact < MAX_SAFE_SEED ? Number(exact) : null,
    samples_used: samples.length,
    median_ms: median, p50_ms: median, p90_ms: percentile(samples, 90), p99_ms: percentile(samples, 99),
    min_ms: Math.min(...samples),
    spread: (percentile(samples, 75) - percentile(samples, 25)) / median,
    median_uncertainty: medianUncertainty(samples),
    images_per_min: 60_000 / median,
    patches_per_s: (flow.spec.image.numPatches * 1000) / median,
    num_patches: flow.spec.image.numPatches,
    load_ms: loadMs,
    output_sha256: output,
    conditions: "in a browser, other pages and programs unknown",
    notes: [],
  };
}

function machine(): { memory: number | null; system: string | null } {
  const found = navigator as { deviceMemory?: number; userAgent?: string };
  // Browsers tell at most 8 GB, to keep people from being recognised.
  return { memory: found.deviceMemory ?? null, system: found.userAgent ?? null };
}

/** Time every window for every block, and choose by time over committed patches. */
export async function calibrate(flow: Flow, onProgress?: OnProgress, signal?: AbortSignal): Promise<Calibration> {
  const profile = flow.planFile.profile;
  if (!profile) throw usageError("the bundle has no convergence profile: there is nothing to plan with");
  const T = flow.spec.image.numPatches;
  const blocks = arBlocks(flow.spec);
  const windows = WINDOWS.filter((window) => window < T);
  const options: PlanOption[] = [];
  const start = performance.now();
  const cases = [false, true].filter((guided) => !guided || flow.spec.guidance !== null);
  let done = 0;
  for (const guided of cases) {
    for (const [blockIndex, block] of blocks.entries()) {
      const times = await timeWindows(flow, block, windows, guided, signal);
      options.push(...choose(block.name, T, times, guided, (window) =>
        window === 1 ? 1 : committedPatches(profile, block.name, window, guided)));
      const fraction = ++done / (cases.length * blocks.length);
      const seconds = (performance.now() - start) / 1000;
      onProgress?.({
        kind: "progress", block: block.name, blockIndex, patches: T, numPatches: T, fraction, seconds,
        secondsLeft: (seconds * (1 - fraction)) / fraction, preview: null,
      });
    }
  }
  const chosen = options.filter((option) => option.chosen);
  const of = (guided: boolean) => chosen.filter((option) => option.guided === guided);
  const lengths = (guided: boolean) => Object.fromEntries(of(guided).map((o) => [o.stage, o.window]));
  const seconds = (guided: boolean) => of(guided).reduce((sum, o) => sum + o.blockSeconds, 0);
  const plan: Plan = { ...flow.plan, windows: lengths(false), guidedWindows: lengths(true), minCommitted: {} };
  flow.plan = plan;
  return { plan, options, seconds: { plain: seconds(false), guided: seconds(true) } };
}

/** Median seconds of a call for each window, host code included; the windows take turns. */
async function timeWindows(
  flow: Flow, block: ARBlock, windows: readonly number[], guided: boolean, signal?: AbortSignal,
): Promise<Map<number, number>> {
  const { numPatches: T, patchDim: D } = flow.spec.image;
  const guidance = guidanceOf({ guidance: guided ? 1 : 0, attnTemp: 0.9 });
  const noise = normals(0n, T * D);
  const stage = await flow.engine.stage(block, flow.spec.numClasses ? 0 : null, guidance);
  const middle = Math.floor((T - 1) / 2);
  if (middle) await stage.step(noise.subarray(0, middle * D), 0);
  const samples = new Map<number, number[]>(windows.map((window) => [window, []]));
  for (let round = 0; round < ROUNDS + WARM_UP; round++) {
    for (const window of windows) {
      await flow.breathe(signal);
      const position = Math.min(middle, T - 1 - window);
      const start = performance.now();
      await callOnce(stage, noise, D, position, window, guidance);
      if (round >= WARM_UP) samples.get(window)?.push((performance.now() - start) / 1000);
    }
  }
  return new Map([...samples].map(([window, found]) => [window, percentile(found, 50)]));
}

/** One engine call with the sampler's code around it. */
async function callOnce(
  stage: Stage, noise: Float32Array, D: number, position: number, window: number,
  guidance: ReturnType<typeof guidanceOf>,
): Promise<void> {
  const shifted: Stage = { step: (x): Promise<Affine> => stage.step(x, position) };
  const x = noise.slice(position * D, (position + window + 1) * D);
  // Nothing settles at a tolerance below 0: one call, then the iteration is left.
  const windows = { window, tolerance: -1, minCommitted: 0 };
  for await (const _ of invert(shifted, x, D, guidance, guidanceWeights(guidance, window + 1), windows)) break;
}

function choose(
  stage: string, T: number, times: ReadonlyMap<number, number>, guided: boolean,
  committedOf: (window: number) => number,
): PlanOption[] {
  const options = [...times].map(([window, callSeconds]) => {
    const committed = committedOf(window);
    const blockSeconds = ((T - 1) / committed) * callSeconds;
    return { stage, window, guided, callSeconds, committed, blockSeconds, chosen: false };
  });
  const sequential = options[0];
  let best = options.reduce((a, b) => (b.blockSeconds < a.blockSeconds ? b : a));
  if (best.blockSeconds > (1 - MIN_GAIN) * sequential.blockSeconds) best = sequential;
  return options.map((option) => ({ ...option, chosen: option === best }));
}
