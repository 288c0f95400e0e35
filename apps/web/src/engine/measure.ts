/** Timing on this device: rows of `flowship bench`, and a plan of its own. */

import type { Row } from "../core/bench_row";
import { usageError } from "../core/errors";
import { guidanceWeights } from "../core/guidance";
import { normals } from "../core/normal";
import { committedPatches, type Plan, uniformPlan } from "../core/plan";
import { type Affine, invert, type Stage } from "../core/sampler";
import { type ARBlock, arBlocks } from "../core/spec";
import { percentile } from "../core/stats";
import type { BenchmarkRequest, Calibration, OnProgress, PlanOption } from "./api";
import { exactWindows, SequentialPictures, type Windows } from "./exactness";
import { type Flow, guidanceOf } from "./flow";
import { rowOf, timePictures } from "./timing";

const WINDOWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const ROUNDS = 11;
const WARM_UP = 3;
const MIN_GAIN = 0.05; // a window must beat sequential sampling by this, or the block stays at W = 1
// Pictures of each kind are compared with sequential ones: as many as fit into the time, 1 to 4.
const COMPARED_PICTURES = 4;
const COMPARING_SECONDS = 30;

/** Time pictures until there is enough for a verdict. */
export async function benchmark(
  flow: Flow, request: BenchmarkRequest, loadMs: number, onProgress?: OnProgress, signal?: AbortSignal,
): Promise<Row> {
  const { window = "plan", seed = 0n } = request;
  const names = arBlocks(flow.spec).map((block) => block.name);
  const plan = window === "plan"
    ? (request.plan ?? flow.plan) : { ...uniformPlan(names, window), tolerance: flow.plan.tolerance };
  const timed = await timePictures(() => flow.generate({ ...request, seed, plan }, undefined, signal), onProgress);
  return rowOf(timed, {
    window: window === "plan" ? "auto" : String(window), engine: flow.info,
    numPatches: flow.spec.image.numPatches, loadMs, machine: machine(),
    conditions: "in a browser, other pages and programs unknown",
  });
}

function machine(): Pick<Row, "cores" | "memory_gb" | "os"> {
  const found = navigator as { hardwareConcurrency?: number; deviceMemory?: number; userAgent?: string };
  return {
    cores: found.hardwareConcurrency ?? null,
    memory_gb: found.deviceMemory ?? null, // at most 8, to keep people from being recognised
    os: found.userAgent ?? null,
  };
}

/** Time every window for every block, and choose by time over committed patches, among those that make the pictures
 * of sequential sampling. */
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
    const own: PlanOption[] = [];
    for (const [blockIndex, block] of blocks.entries()) {
      const times = await timeWindows(flow, block, windows, guided, signal);
      own.push(...optionsOf(block.name, T, times, guided, (window) =>
        window === 1 ? 1 : committedPatches(profile, block.name, window, guided)));
      const fraction = ++done / (cases.length * (blocks.length + 1)); // comparing is a share too
      const seconds = (performance.now() - start) / 1000;
      onProgress?.({
        kind: "progress", block: block.name, blockIndex, patches: T, numPatches: T, fraction, seconds,
        secondsLeft: (seconds * (1 - fraction)) / fraction, preview: null,
      });
    }
    options.push(...withWindows(own, await withoutInexact(flow, own, guided, signal)));
    done++;
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

function optionsOf(
  stage: string, T: number, times: ReadonlyMap<number, number>, guided: boolean,
  committedOf: (window: number) => number,
): PlanOption[] {
  return [...times].map(([window, callSeconds]) => {
    const committed = committedOf(window);
    const blockSeconds = ((T - 1) / committed) * callSeconds;
    return { stage, window, guided, callSeconds, committed, blockSeconds, chosen: false };
  });
}

/** Of the windows that pay those that make the pictures of sequential sampling. */
export async function withoutInexact(
  flow: Flow, options: readonly PlanOption[], guided: boolean, signal?: AbortSignal,
): Promise<Windows> {
  const wanted = payingWindows(options);
  const seconds = options.filter(({ window }) => window === 1).reduce((sum, o) => sum + o.blockSeconds, 0);
  const count = Math.max(1, Math.min(Math.floor(COMPARING_SECONDS / (2 * seconds)), COMPARED_PICTURES));
  const pictures = new SequentialPictures(flow, guided, count, signal);
  return exactWindows((windows) => pictures.compare(windows), wanted);
}

/** Windows of each stage that beat W = 1 by MIN_GAIN, the fastest first. */
export function payingWindows(options: readonly PlanOption[]): Map<string, number[]> {
  const sequential = options.filter(({ window }) => window === 1);
  const fastest = options.toSorted((a, b) => a.blockSeconds - b.blockSeconds);
  return new Map(sequential.map(({ stage, blockSeconds }) => [
    stage,
    fastest.filter((o) => o.stage === stage && o.window > 1 && o.blockSeconds <= (1 - MIN_GAIN) * blockSeconds)
      .map(({ window }) => window),
  ]));
}

/** The options with those of these windows chosen; W = 1 for stages that are not named. */
function withWindows(options: readonly PlanOption[], windows: Windows): PlanOption[] {
  return options.map((option) => ({ ...option, chosen: option.window === (windows[option.stage] ?? 1) }));
}
