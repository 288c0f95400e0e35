/** Gallery: what was made, each with its recipe. */

import type { Recipe } from "../../core/recipe";
import type { Pixels } from "../../engine/api";
import { fill, h } from "../dom";
import { ICONS } from "../icons";
import * as gallery from "../gallery_store";
import { button, canShare, loadRecipe, pictureOf, pngFile, recipeTable, saveFile, section, share } from "../parts";
import type { Session } from "../session";

export class GalleryPage {
  private readonly grid = h("div", { class: "grid" });
  private readonly detail = h("div", {});
  readonly element: HTMLElement;

  constructor(
    private readonly session: Session,
    private readonly makeAgain: (recipe: Recipe, pixels: Pixels) => void,
    private readonly use: (where: "inside" | "morph", pixels: Pixels) => void,
  ) {
    this.element = h("div", { class: "two" },
      section("Gallery", h("p", { class: "note" }, "Kept in this browser, and nowhere else."), this.grid),
      this.detail);
  }

  async refresh(): Promise<void> {
    const pictures = await gallery.kept();
    fill(this.grid, ...pictures.map((one) => this.thumbnail(one)),
      pictures.length === 0 && h("p", {}, "Nothing yet. Make a picture first."));
  }

  private thumbnail(one: gallery.Kept): HTMLElement {
    const words = this.describe(one);
    return h("button", { type: "button", class: "thumb", "aria-label": words, onclick: () => this.open(one) },
      pictureOf(one.pixels, words));
  }

  private describe(one: gallery.Kept): string {
    const recipe = loadRecipe(one.recipe);
    const label = recipe.labels[0] ?? null;
    return `${label === null ? "Picture" : (this.session.model?.classes[label] ?? "Picture")}, `
      + `seed ${recipe.seeds[0]}`;
  }

  private open(one: gallery.Kept): void {
    const recipe = loadRecipe(one.recipe);
    const remove = async () => {
      await gallery.forget(one.id);
      fill(this.detail);
      await this.refresh();
      this.session.say("Deleted.");
    };
    const shown = section(this.describe(one), pictureOf(one.pixels, this.describe(one)),
      h("div", { class: "row wrap" },
        button("Make again", () => this.makeAgain(recipe, one.pixels), ICONS.again, "primary"),
        button("Save PNG", async () => saveFile(await pngFile(one.pixels, one.recipe)), ICONS.save),
        canShare() && button("Share", async () => share(this.session, await pngFile(one.pixels, one.recipe)), ICONS.share) || null,
        button("Look inside", () => this.use("inside", one.pixels), ICONS.inside),
        button("Morph", () => this.use("morph", one.pixels), ICONS.morph),
        button("Delete", remove, ICONS.trash)),
      recipeTable(recipe, this.session.model?.classes ?? []),
      h("p", { class: "note" }, `Made ${new Date(one.made).toLocaleString()}`));
    fill(this.detail, shown);
    shown.scrollIntoView({ block: "nearest" });
  }
}
