/** A recipe: everything that is needed to make a picture again; the JSON of runtime/recipe.py. */

import { FlowshipError, messageOf, usageError } from "./errors";
import { dumpJson, formatG, type Json, type JsonObject, parseJson, quote } from "./json";
import { decodePlan, type Plan, planJson, SEQUENTIAL } from "./plan";
import {
  bigInteger, type Fields, flag, integer, list, number, oneOf, orNull, record, text,
} from "./schema";
import { isSha256 } from "./sha256";

/** The newest that is read; what says nothing of it is written as version 1. */
export const RECIPE_VERSION = 2;
export const PHILOX_NOISE = "philox4x32-10/as241";
export const MAX_SEED = 2n ** 64n - 1n;
const MAX_PICTURES = 1 << 16;
const MAX_STEPS = 1000;
const PLAIN = /^[^\x00-\x1f\x7f]{1,200}$/;

/** Noise on the way from one end to another, both included. */
export interface Between {
  readonly steps: number;
  /** Of the ends; none where they were latents. */
  readonly seeds: readonly bigint[];
  /** Of the ends' float32 noise where they were latents. */
  readonly latentsSha256: string | null;
  readonly rule: "slerp";
}

export interface Recipe {
  readonly flowshipVersion: string;
  readonly bundle: string;
  /** Hash of the bundle's manifest.json. */
  readonly bundleSha256: string;
  readonly engine: string;
  readonly engineVersion: string;
  readonly device: string;
  readonly precision: string;
  readonly planSha256: string;
  /** Of each picture, 0 to 2^64 - 1. */
  readonly seeds: readonly bigint[];
  readonly labels: readonly (number | null)[];
  readonly guidance: number;
  readonly guideWhat: "ab" | "a" | "b";
  readonly annealedGuidance: boolean;
  readonly attnTemp: number;
  readonly denoise: boolean;
  /** PHILOX_NOISE, or the sha256 of the float32 noise that was given instead. */
  readonly noise: string;
  /** Pictures in a row of the grid; null is one picture. */
  readonly columns: number | null;
  readonly plan: Plan;
  /** How the noise came about, where it lies between two ends (version 2). */
  readonly between: Between | null;
}

/** One line for people. */
export function describeRecipe(recipe: Recipe): string {
  const kind = recipe.noise === PHILOX_NOISE ? "seed" : "given noise";
  return (
    `${recipe.bundle}, ${kind} ${seedRanges(recipe.seeds)}, guidance ${formatG(recipe.guidance)}, ` +
    `${recipe.engine} ${recipe.precision}`
  );
}

/** Compact ASCII JSON, the bytes that Python writes for the same recipe. */
export function dumpRecipe(recipe: Recipe): string {
  const fields: JsonObject = {
    flowship_version: recipe.flowshipVersion,
    bundle: recipe.bundle,
    bundle_sha256: recipe.bundleSha256,
    engine: recipe.engine,
    engine_version: recipe.engineVersion,
    device: recipe.device,
    precision: recipe.precision,
    plan_sha256: recipe.planSha256,
    seeds: [...recipe.seeds],
    labels: recipe.labels.map((label) => (label === null ? null : BigInt(label))),
    guidance: recipe.guidance,
    guide_what: recipe.guideWhat,
    annealed_guidance: recipe.annealedGuidance,
    attn_temp: recipe.attnTemp,
    denoise: recipe.denoise,
    noise: recipe.noise,
    columns: recipe.columns === null ? null : BigInt(recipe.columns),
    plan: planJson(recipe.plan),
    recipe_version: recipe.between ? 2n : 1n,
  };
  if (!recipe.between) return dumpJson(fields);
  const { steps, seeds, latentsSha256, rule } = recipe.between;
  return dumpJson({
    ...fields, between: { steps: BigInt(steps), seeds: [...seeds], latents_sha256: latentsSha256, rule },
  });
}

/** Parse and validate.
 * @throws FlowshipError (usage) not a recipe, or a newer one than this program knows. */
export function loadRecipe(content: string): Recipe {
  let data: Json;
  try {
    data = parseJson(content);
  } catch (error) {
    throw usageError(`the recipe is not JSON: ${messageOf(error)}`);
  }
  try {
    return decodeRecipe(data, "recipe");
  } catch (error) {
    if (error instanceof FlowshipError) throw usageError(error.message);
    throw error;
  }
}

/** A seed as people write it.
 * @throws FlowshipError not a whole number from 0 to 2^64 - 1. */
export function parseSeed(seed: string | bigint): bigint {
  const digits = String(seed).trim();
  const value = /^\d{1,20}$/.test(digits) ? BigInt(digits) : -1n;
  if (value < 0n || value > MAX_SEED) {
    throw usageError(`the seed ${quote(digits.slice(0, 40))} is not a whole number from 0 to 2^64 - 1`);
  }
  return value;
}

const decodeBetween = record((fields): Between => {
  const between: Between = {
    steps: fields.get("steps", integer),
    seeds: fields.getOr("seeds", list(bigInteger), []),
    latentsSha256: fields.getOr("latents_sha256", orNull(text), null),
    rule: fields.getOr("rule", oneOf("slerp"), "slerp"),
  };
  const { steps, seeds, latentsSha256 } = between;
  fields.require(steps >= 2 && steps <= MAX_STEPS, `${steps} steps, expected 2 to ${MAX_STEPS}`);
  fields.require(latentsSha256 === null || isSha256(latentsSha256), "latents_sha256 is not a sha256");
  fields.require(seeds.length === (latentsSha256 === null ? 2 : 0), `${seeds.length} seeds, expected two, or latents_sha256`);
  return between;
});

const decodeRecipe = record((fields): Recipe => {
  const version = fields.getOr("recipe_version", integer, 1);
  fields.require(
    version <= RECIPE_VERSION,
    `it has version ${version}, newer than ${RECIPE_VERSION}, the newest that this flowship ` +
      "reads: update flowship",
  );
  const recipe: Recipe = {
    flowshipVersion: word(fields, "flowship_version"),
    bundle: word(fields, "bundle"),
    bundleSha256: hash(fields, "bundle_sha256"),
    engine: word(fields, "engine"),
    engineVersion: word(fields, "engine_version"),
    device: word(fields, "device"),
    precision: word(fields, "precision"),
    planSha256: hash(fields, "plan_sha256"),
    seeds: fields.get("seeds", list(bigInteger)),
    labels: fields.get("labels", list(orNull(integer))),
    guidance: fields.getOr("guidance", number, 0),
    guideWhat: fields.getOr("guide_what", oneOf("ab", "a", "b"), "ab"),
    annealedGuidance: fields.getOr("annealed_guidance", flag, false),
    attnTemp: fields.getOr("attn_temp", number, 1),
    denoise: fields.getOr("denoise", flag, false),
    noise: fields.getOr("noise", text, PHILOX_NOISE),
    columns: fields.getOr("columns", orNull(integer), null),
    plan: fields.getOr("plan", decodePlan, SEQUENTIAL),
    between: fields.getOr("between", orNull(decodeBetween), null),
  };
  checkPictures(recipe, fields);
  if (recipe.between) checkBetween(recipe.between, recipe, version, fields);
  return recipe;
});

function word(fields: Fields, key: string): string {
  const value = fields.get(key, text);
  // They are shown: no control characters.
  fields.require(PLAIN.test(value), `${key} is ${quote(value.slice(0, 80))}, expected a short name`);
  return value;
}

function hash(fields: Fields, key: string): string {
  const value = fields.get(key, text);
  fields.require(isSha256(value), `${key} is ${quote(value.slice(0, 80))}, expected a sha256`);
  return value;
}

function checkPictures(recipe: Recipe, fields: Fields): void {
  const { seeds, labels, noise } = recipe;
  fields.require(
    noise === PHILOX_NOISE || isSha256(noise),
    `noise is ${quote(noise.slice(0, 80))}, expected ${PHILOX_NOISE} or a sha256`,
  );
  fields.require(
    seeds.length >= 1 && seeds.length <= MAX_PICTURES && labels.length === seeds.length,
    `${seeds.length} seeds and ${labels.length} labels, expected the same number from 1 to ` +
      `${MAX_PICTURES}`,
  );
  const bad = seeds.find((seed) => seed < 0n || seed > MAX_SEED);
  fields.require(bad === undefined, `seed ${String(bad).slice(0, 60)} is not between 0 and 2^64 - 1`);
  fields.require(labels.every((label) => label === null || label >= 0), "a label is negative");
  fields.require(
    recipe.attnTemp > 0 && recipe.guidance >= 0,
    `guidance is ${recipe.guidance} and attn_temp ${recipe.attnTemp}, expected numbers from 0 up ` +
      "and above 0",
  );
  fields.require(
    recipe.columns === null || recipe.columns >= 1,
    `columns is ${recipe.columns}, expected 1 or more`,
  );
}

function checkBetween({ steps }: Between, { seeds, noise }: Recipe, version: number, fields: Fields): void {
  fields.require(version >= 2 && noise !== PHILOX_NOISE, "between needs recipe_version 2 and the noise's sha256");
  const bad = seeds.find((seed) => seed >= BigInt(steps));
  fields.require(bad === undefined, `picture ${String(bad).slice(0, 60)} of ${steps} steps`);
}

/** "1-4, 9" for [1, 2, 3, 4, 9], at most five runs. */
export function seedRanges(seeds: readonly bigint[]): string {
  const runs: [bigint, bigint][] = [];
  for (const seed of seeds) {
    const last = runs.at(-1);
    if (last && seed === last[1] + 1n) last[1] = seed;
    else runs.push([seed, seed]);
  }
  const shown = runs.slice(0, 5).map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`));
  return shown.join(", ") + (runs.length > 5 ? ", ..." : "");
}
