/** The card of a dropped picture: its recipe, and how the picture compares with one that is made again. */

import { MAX_COUNT, reasonAgainst } from "../core/again";
import { cellsOf } from "../core/grid";
import { describeRecipe, type Recipe } from "../core/recipe";
import type { ModelInfo, Picture, Pixels } from "../engine/api";
import { classNameOf } from "./class_names";
import { describeDifferences } from "./differences";
import { fill, h } from "./dom";
import { focusFirst, keepFocus } from "./focus";
import { ICONS } from "./icons";
import { button, pictureOf, recipeTable, section } from "./parts";
import { compare, withChannels } from "./pixels";

export class AgainCard {
  readonly element = h("div", { class: "again" });

  /** @param model Names the classes where the picture is of it. */
  showRecipe(recipe: Recipe, model: ModelInfo | null, makeAgain: () => void): void {
    const against = reasonAgainst(recipe);
    const count = recipe.seeds.length;
    const name = count > MAX_COUNT ? `Make the first ${MAX_COUNT} of ${count.toLocaleString("en-US")} again` : "Make it again";
    fill(this.element, section("This picture carries its recipe",
      h("p", {}, describeRecipe(recipe)), recipeTable(recipe, classNameOf(recipe, model)),
      against ? h("p", { class: "note" }, `It cannot be made again from that: ${against}.`)
        : button(name, makeAgain, ICONS.again, "primary"),
      count > MAX_COUNT ? h("p", { class: "note" }, "flowship generate --like makes all of them.") : null));
    this.element.scrollIntoView({ block: "nearest" });
  }

  /** The dropped picture beside an empty place, as large as what comes there. */
  begin(dropped: Pixels | null): Comparison | null {
    if (!dropped) {
      keepFocus(this.element, () => fill(this.element));
      return null;
    }
    const comparison = new Comparison(dropped);
    const hadFocus = this.element.contains(document.activeElement);
    fill(this.element, comparison.element);
    if (hadFocus) focusFirst(comparison.element);
    return comparison;
  }
}

class Comparison {
  private readonly place = h("div", {});
  private readonly verdict = h("p", { class: "verdict waiting" }, "Compared when it is ready.");
  readonly element: HTMLElement;

  constructor(private readonly dropped: Pixels) {
    const empty = h("canvas", { class: "picture", role: "presentation", width: dropped.width, height: dropped.height });
    fill(this.place, empty);
    this.element = section("Made again",
      h("div", { class: "pair" }, pictureOf(dropped, "The dropped picture"), this.place), this.verdict);
    this.element.tabIndex = -1;
  }

  /** Compares what was made with what was dropped; returns the verdict. */
  end(recipe: Recipe, made: readonly Picture[]): string {
    const first = made[0]!.pixels;
    const channels = first.channels === 1 ? 1 : 3;
    const { length: count } = recipe.seeds;
    const cells = count === 1 ? [this.dropped] : cellsOf(this.dropped, count, recipe.columns, first.width, first.height);
    const words = describeDifferences(made.map(({ pixels }, i) => {
      const cell = cells?.[i];
      return cell ? compare(withChannels(cell, channels), withChannels(pixels, channels)) : null;
    }));
    fill(this.place, pictureOf(first, count === 1 ? "Made again" : "The first of them, made again"));
    this.verdict.textContent = words;
    return words;
  }

  fail(): void {
    this.verdict.textContent = "It was not made again.";
  }
}
