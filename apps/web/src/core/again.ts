/** What a recipe asks for, and what of it this app can make again. */

import { usageError } from "./errors";
import { PHILOX_NOISE, type Recipe } from "./recipe";
import type { GenerateRequest, ModelSummary } from "../engine/api";

/** Pictures of one run: all of them are shown and kept. */
export const MAX_COUNT = 64;

/** Why no bundle, engine or browser will do; null where there is no such reason. */
export function reasonAgainst(recipe: Recipe): string | null {
  if (recipe.noise === PHILOX_NOISE) return null;
  if (recipe.between) {
    return "these pictures lie between two others, and this app makes pictures of seeds alone: flowship generate "
      + "--like makes them again";
  }
  return "this picture was made of given noise, not of a seed, and its recipe does not hold the noise: decode that "
    + "file again with flowship generate --noise";
}

/** One request for each picture, of the first MAX_COUNT. */
export function requestsOf(recipe: Recipe): GenerateRequest[] {
  return recipe.seeds.slice(0, MAX_COUNT).map((seed, i) => ({
    seed, label: recipe.labels[i] ?? null, guidance: recipe.guidance, guideWhat: recipe.guideWhat,
    annealed: recipe.annealedGuidance, attnTemp: recipe.attnTemp, denoise: recipe.denoise, plan: recipe.plan,
  }));
}

/** The model that a recipe names, among those that there are.
 * @throws FlowshipError (usage) it is not there, or not in the recipe's precision. */
export function modelFor(recipe: Recipe, models: readonly ModelSummary[]): ModelSummary {
  const same = models.filter(({ sha256, problem }) => sha256 === recipe.bundleSha256 && !problem);
  if (same.length === 0) {
    throw usageError(`this picture was made with another bundle (${recipe.bundle}): open it under Device`);
  }
  const found = same.find((model) => canMake(recipe, model));
  if (found) return found;
  const { engineName, precisions } = same[0]!;
  throw usageError(`this picture was made by ${recipe.engine} in ${recipe.precision}, and here ${recipe.bundle} has `
    + `${precisions.join(", ")} for ${engineName}: flowship generate --like makes it again`);
}

/** Engines quantize in their own ways; in float32 they differ by rounding. */
function canMake({ engine, precision }: Recipe, { engineName, precisions }: ModelSummary): boolean {
  return precisions.includes(precision) && (engine === engineName || precision === "fp32");
}
