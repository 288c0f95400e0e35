/** What of a recipe can be made again, and how it compares. */

import { describe, expect, it } from "vitest";
import { MAX_COUNT, modelFor, reasonAgainst, requestsOf } from "../src/core/again";
import { cellsOf } from "../src/core/grid";
import { dumpRecipe, loadRecipe } from "../src/core/recipe";
import type { ModelInfo, ModelSummary, Pixels } from "../src/engine/api";
import { classNameOf, titleOf } from "../src/ui/class_names";
import { describeDifferences } from "../src/ui/differences";
import { recipeWith } from "./recipe_of_vectors";
import { VECTORS } from "./vectors";

interface Sheet {
  count: number; columns: number | null; pictures: number[][];
  sheet: { width: number; height: number; channels: 1 | 3; data: number[] };
}

const model = (changes: Partial<ModelSummary>): ModelSummary => ({
  id: "mine", name: "mine", sha256: "a".repeat(64), bytes: 1, removable: true, engineName: "onnx",
  precisions: ["fp32", "int8"], ...changes,
});

describe("a recipe", () => {
  it("of given noise is not made again from its numbers", () => {
    expect(reasonAgainst(recipeWith({}))).toBeNull();
    expect(reasonAgainst(recipeWith({ noise: "c".repeat(64) }))).toMatch(/made of given noise.*--noise/);
  });

  it("of an interpolation is read, written as Python does, and made again by Python", () => {
    const recipe = loadRecipe(VECTORS.between);
    expect(recipe.between).toEqual({ steps: 4, seeds: [3n, 2n ** 64n - 1n], latentsSha256: null, rule: "slerp" });
    expect(dumpRecipe(recipe)).toBe(VECTORS.between);
    expect(reasonAgainst(recipe)).toMatch(/between two others.*flowship generate --like/);
    const wrong = (changes: object) => () =>
      loadRecipe(VECTORS.between.replace('"steps":4,"seeds":[3,18446744073709551615]', JSON.stringify(changes).slice(1, -1)));
    expect(wrong({ steps: 1, seeds: [1, 2] })).toThrow(/1 steps, expected 2 to 1000/);
    expect(wrong({ steps: 4, seeds: [1] })).toThrow(/1 seeds, expected two/);
    expect(wrong({ steps: 2, seeds: [1, 2] })).toThrow(/picture 2 of 2 steps/);
    expect(() => loadRecipe(VECTORS.between.replace('"recipe_version":2', '"recipe_version":1'))).toThrow(/needs recipe_version 2/);
    expect(() => loadRecipe(VECTORS.between.replace('"recipe_version":2', '"recipe_version":3'))).toThrow(/newer than 2.*update flowship/);
  });

  it("of many pictures asks for as many as one run has", () => {
    const seeds = Array.from({ length: 65_536 }, (_, i) => BigInt(i));
    const found = requestsOf(recipeWith({ seeds, labels: seeds.map(() => 3) }));
    expect(found).toHaveLength(MAX_COUNT);
    expect(found.at(-1)).toMatchObject({ seed: 63n, label: 3, guidance: 1.5 });
  });

  it("wants its own bundle and precision", () => {
    const recipe = recipeWith({ precision: "int8" });
    const wanted = model({});
    expect(modelFor(recipe, [model({ sha256: "b".repeat(64) }), wanted])).toBe(wanted);
    const refused = (changes: Partial<ModelSummary>) => () => modelFor(recipe, [model(changes)]);
    expect(refused({ sha256: "b".repeat(64) })).toThrow(/made with another bundle \(näme\): open it under Device/);
    expect(refused({ problem: "damaged" })).toThrow(/another bundle/);
    expect(refused({ precisions: ["fp32", "int4"] })).toThrow(
      /made by onnx in int8, and here näme has fp32, int4 for onnx: flowship generate --like/,
    );
  });

  it("of another engine is made again in float32 only", () => {
    const executorch = { engine: "executorch" };
    expect(modelFor(recipeWith({ ...executorch, precision: "fp32" }), [model({})])).toBeTruthy();
    expect(() => modelFor(recipeWith({ ...executorch, precision: "int8" }), [model({})])).toThrow(/by executorch in int8/);
    const laptop = model({ engineName: "executorch" });
    expect(modelFor(recipeWith({ ...executorch, precision: "int8" }), [model({}), laptop])).toBe(laptop);
  });
});

describe("a sheet of pictures", () => {
  it.each<Sheet>(VECTORS.sheets)("of $count in columns of $columns is cut as Python lays it out", ({ count, columns, sheet, pictures }) => {
    const pixels: Pixels = { ...sheet, data: Uint8Array.from(sheet.data) };
    const cells = cellsOf(pixels, count, columns, 3, 2)!;
    expect(cells.map(({ data }) => [...data])).toEqual(pictures);
    expect(cellsOf({ ...pixels, width: pixels.width + 1 }, count, columns, 3, 2)).toBeNull();
  });
});

describe("a verdict", () => {
  const same = { values: 784, different: 0, largest: 0 };
  it.each([
    [[same], "Bit for bit the same: all 784 values are equal."],
    [[same, same], "Bit for bit the same: all 1568 values of 2 pictures are equal."],
    [[same, { values: 784, different: 3, largest: 1 }],
      "The same to the eye: 3 of 1568 values of 2 pictures differ, by at most 1 of 255. Other processors and engines round differently."],
    [[{ values: 784, different: 30, largest: 9 }], "Not the same: 30 of 784 values differ, by at most 9 of 255."],
    [[null], "The sizes differ, so this is not the same picture."],
    [[same, null], "The sizes differ, so these are not the same pictures."],
  ])("%#", (found, words) => expect(describeDifferences(found)).toBe(words));
});

describe("the name of a class", () => {
  const recipe = recipeWith({ labels: [3], seeds: [7n] });
  const open = (sha256: string) => ({ sha256, classes: ["a", "b", "c", "dress"] }) as unknown as ModelInfo;

  it("is the one that was kept, else that of the same bundle, else a number", () => {
    expect(classNameOf(recipe, open("b".repeat(64)), "class 3 of mine")).toBe("class 3 of mine");
    expect(classNameOf(recipe, open(recipe.bundleSha256))).toBe("dress");
    expect(classNameOf(recipe, open("b".repeat(64)))).toBe("class 3");
    expect(classNameOf(recipe, null)).toBe("class 3");
    expect(classNameOf(recipeWith({ labels: [null] }), open(recipe.bundleSha256), null)).toBeNull();
    expect([titleOf(recipe, "dress"), titleOf(recipe, null)]).toEqual(["dress, seed 7", "Picture, seed 7"]);
  });
});
