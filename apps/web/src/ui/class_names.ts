/** Names of classes: a number means something else in every bundle. */

import type { Recipe } from "../core/recipe";
import type { ModelInfo } from "../engine/api";

/** Of a recipe's first picture; null is no class.
 * @param model Knows the names where the picture is of it.
 * @param kept The name that was kept with the picture. */
export function classNameOf(recipe: Recipe, model: ModelInfo | null, kept?: string | null): string | null {
  const label = recipe.labels[0] ?? null;
  if (label === null) return null;
  if (kept) return kept;
  const own = model?.sha256 === recipe.bundleSha256 ? model.classes[label] : undefined;
  return own ?? `class ${label}`;
}

/** Such as "bag, seed 7". */
export const titleOf = (recipe: Recipe, className: string | null): string =>
  `${className ?? "Picture"}, seed ${recipe.seeds[0]}`;
