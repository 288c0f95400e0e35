/** plan.json: patches that each block evaluates in one call, and what is known about convergence. */

import { bundleError, messageOf } from "./errors";
import { dumpJson, type Json, parseJson } from "./json";
import { integer, list, map, number, orNull, record, text } from "./schema";
import { sha256 } from "./sha256";
import { MAX_PATCHES } from "./spec";

export const PLAN = "plan.json";
export const DEFAULT_TOLERANCE = 1e-5; // float32; a smaller one never settles because of rounding
const FLOOR_FACTOR = 3; // tolerance over the measured rounding noise of an engine and precision

type ByStage = Readonly<Record<string, number>>;

/** Window length of each block (1 where none is named) and tolerance, as runtime/plan.py has it. */
export interface Plan {
  /** Patches in one call, by stage name, without and with guidance; one that is longer than a
   * sequence means the whole sequence. */
  readonly windows: ByStage;
  readonly guidedWindows: ByStage;
  /** Largest change of a patch between two calls that counts as none. */
  readonly tolerance: number;
  /** Patches that a call must commit on average; a block that commits fewer goes on with W = 1. */
  readonly minCommitted: ByStage;
}

export const SEQUENTIAL: Plan = {
  windows: {}, guidedWindows: {}, tolerance: DEFAULT_TOLERANCE, minCommitted: {},
};

/** The same window for every block, guided or not. */
export function uniformPlan(stages: readonly string[], window: number): Plan {
  const windows = Object.fromEntries(stages.map((stage) => [stage, window]));
  return { ...SEQUENTIAL, windows, guidedWindows: windows };
}

export function planWindow(plan: Plan, stage: string, guided: boolean): number {
  const windows = guided ? plan.guidedWindows : plan.windows;
  return Object.hasOwn(windows, stage) ? windows[stage] : 1;
}

/** How fast one block settles with one window: mean patches that a call commits. */
interface Convergence {
  readonly stage: string;
  readonly window: number;
  readonly guidance: number;
  readonly committed: number;
}

/** What was measured about the model when it was exported; it does not depend on a device. */
export interface Profile {
  readonly entries: readonly Convergence[];
  /** Rounding noise of a patch between window lengths, by "engine precision". */
  readonly floors: ReadonlyMap<string, number>;
}

export interface PlanFile {
  readonly plan: Plan;
  readonly profile: Profile | null;
}

/** Patches per call; between measured windows the next smaller one counts. */
export function committedPatches(
  profile: Profile, stage: string, window: number, guided: boolean,
): number {
  const known = profile.entries
    .filter((e) => e.stage === stage && e.guidance > 0 === guided && e.window <= window)
    .toSorted((a, b) => a.window - b.window);
  return known.at(-1)?.committed ?? 1;
}

/** The bundle's plan, its tolerance not below what rounding lets settle. */
export function defaultPlan(file: PlanFile, precision: string): Plan {
  const floor = file.profile?.floors.get(`onnx ${precision}`) ?? 0;
  return { ...file.plan, tolerance: Math.max(file.plan.tolerance, FLOOR_FACTOR * floor) };
}

export const decodePlan = record((fields): Plan => {
  const empty = new Map<string, number>();
  const windows = fields.getOr("windows", map(integer), empty);
  const guidedWindows = fields.getOr("guided_windows", map(integer), empty);
  const tolerance = fields.getOr("tolerance", number, DEFAULT_TOLERANCE);
  for (const length of [...windows.values(), ...guidedWindows.values()]) {
    fields.require(
      length >= 1 && length <= MAX_PATCHES, `a window of ${length} patches, expected 1 to ${MAX_PATCHES}`,
    );
  }
  fields.require(tolerance >= 0, `tolerance is ${tolerance}, expected a number from 0 up`);
  return {
    windows: Object.fromEntries(windows),
    guidedWindows: Object.fromEntries(guidedWindows),
    tolerance,
    minCommitted: Object.fromEntries(fields.getOr("min_committed", map(number), empty)),
  };
});

// What is not used here is checked all the same: a file that Python refuses is refused here too.
const decodeConvergence = record((fields): Convergence => {
  fields.get("worst", number);
  return {
    stage: fields.get("stage", text),
    window: fields.get("window", integer),
    guidance: fields.get("guidance", number),
    committed: fields.get("committed", number),
  };
});

const decodeProfile = record((fields): Profile => {
  fields.get("seeds", integer);
  fields.get("tolerance", number);
  fields.get("measured_with", text);
  return {
    entries: fields.get("entries", list(decodeConvergence)),
    floors: fields.getOr("floors", map(number), new Map<string, number>()),
  };
});

const decodePlanFile = record((fields): PlanFile => {
  fields.getOr("schema_version", integer, 1);
  return {
    plan: fields.getOr("plan", decodePlan, SEQUENTIAL),
    profile: fields.getOr("profile", orNull(decodeProfile), null),
  };
});

/** plan.json's text to its content.
 * @throws FlowshipError with the path of what is wrong. */
export function loadPlanFile(content: string): PlanFile {
  return decodePlanFile(parseAs(content, PLAN), PLAN);
}

/** parseJson() with an error that says what the text should have been. */
export function parseAs(content: string, what: string): Json {
  try {
    return parseJson(content);
  } catch (error) {
    throw bundleError(`${what} is not JSON: ${messageOf(error)}`);
  }
}

/** A plan as recipes hold it. */
export function planJson(plan: Plan): Json {
  return {
    windows: integers(plan.windows),
    guided_windows: integers(plan.guidedWindows),
    tolerance: plan.tolerance,
    min_committed: { ...plan.minCommitted },
  };
}

/** Identity of a plan in recipes; windows of 1 are the same as none. */
export function planSha256(plan: Plan): string {
  const named = [plan.windows, plan.guidedWindows].map((windows) =>
    integers(Object.fromEntries(sorted(windows).filter(([, length]) => length > 1))),
  );
  const parts: Json = [...named, plan.tolerance, sorted(plan.minCommitted)];
  return sha256(new TextEncoder().encode(dumpJson(parts, true)));
}

/** By code points, as Python sorts. */
function sorted(values: ByStage): [string, number][] {
  const key = ([stage]: [string, number]) => [...stage].map((c) => c.codePointAt(0));
  return Object.entries(values).sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    const at = left.findIndex((c, i) => c !== right[i]);
    return at < 0 ? left.length - right.length : (left[at] ?? -1) - (right[at] ?? -1);
  });
}

function integers(values: ByStage): Record<string, bigint> {
  return Object.fromEntries(Object.entries(values).map(([k, v]) => [k, BigInt(v)]));
}
