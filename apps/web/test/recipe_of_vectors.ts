/** The recipe that Python wrote, with changes. */

import { loadRecipe, type Recipe } from "../src/core/recipe";
import { VECTORS } from "./vectors";

export const recipeWith = (changes: Partial<Recipe>): Recipe => ({ ...loadRecipe(VECTORS.recipe), ...changes });
