/** Gallery: what was made, each with its recipe. */

import type { Recipe } from "../../core/recipe";
import type { Pixels } from "../../engine/api";
import { classNameOf, titleOf } from "../class_names";
import { fill, h } from "../dom";
import { focusFirst } from "../focus";
import { ICONS } from "../icons";
import * as gallery from "../gallery_store";
import { button, canShare, loadRecipe, pictureOf, pngFile, recipeTable, saveFile, section, share } from "../parts";
import type { Session } from "../session";

const KEPT = "Kept in this browser, and nowhere else.";
const HELD = "This browser keeps nothing for this page: pictures are here until it is closed. Save those you want.";

export class GalleryPage {
  private readonly note = h("p", { class: "note" }, KEPT);
  private readonly grid = h("div", { class: "grid" });
  private readonly empty = h("p", {}, "Nothing yet. Make a picture first.");
  private readonly detail = h("div", {});
  private readonly thumbs = new Map<number, HTMLButtonElement>();
  readonly element: HTMLElement;

  constructor(
    private readonly session: Session,
    private readonly makeAgain: (recipe: Recipe, pixels: Pixels) => void,
    private readonly use: (where: "inside" | "morph", pixels: Pixels) => void,
  ) {
    this.element = h("div", { class: "two" }, section("Gallery", this.note, this.grid), this.detail);
    let shown: unknown;
    session.watch(() => {
      if (shown === session.model) return;
      shown = session.model;
      void this.refresh(); // it may know names of classes that were not kept
    });
  }

  /** Pictures that are shown already stay where they are, and with them the focus. */
  async refresh(): Promise<void> {
    const pictures = await gallery.kept();
    this.note.textContent = gallery.isLasting() ? KEPT : HELD;
    const there = new Set(pictures.map(({ id }) => id));
    for (const [id, thumb] of this.thumbs) {
      if (there.has(id)) continue;
      thumb.remove();
      this.thumbs.delete(id);
    }
    let before: Element | null = null;
    for (const one of pictures.toReversed()) before = this.place(one, before);
    if (pictures.length === 0) this.grid.append(this.empty);
    else this.empty.remove();
  }

  /** The thumbnail of a picture, put before the older one. */
  private place(one: gallery.Kept, older: Element | null): HTMLButtonElement {
    const words = this.describe(one);
    let thumb = this.thumbs.get(one.id);
    if (!thumb) {
      thumb = h("button", { type: "button", class: "thumb", onclick: () => this.open(one) }, pictureOf(one.pixels, words));
      this.grid.insertBefore(thumb, older);
      this.thumbs.set(one.id, thumb);
    }
    thumb.setAttribute("aria-label", words);
    return thumb;
  }

  private describe(one: gallery.Kept): string {
    const recipe = loadRecipe(one.recipe);
    return titleOf(recipe, classNameOf(recipe, this.session.model, one.className));
  }

  private open(one: gallery.Kept): void {
    const recipe = loadRecipe(one.recipe);
    const shown = section(this.describe(one), pictureOf(one.pixels, this.describe(one)),
      h("div", { class: "row wrap" },
        button("Make again", () => this.makeAgain(recipe, one.pixels), ICONS.again, "primary"),
        button("Save PNG", async () => saveFile(await pngFile(one.pixels, one.recipe)), ICONS.save),
        canShare() && button("Share", async () => share(this.session, await pngFile(one.pixels, one.recipe)), ICONS.share) || null,
        button("Look inside", () => this.use("inside", one.pixels), ICONS.inside),
        button("Morph", () => this.use("morph", one.pixels), ICONS.morph),
        button("Delete", () => this.remove(one.id), ICONS.trash)),
      recipeTable(recipe, classNameOf(recipe, this.session.model, one.className)),
      h("p", { class: "note" }, `Made ${new Date(one.made).toLocaleString()}`));
    fill(this.detail, shown);
    shown.scrollIntoView({ block: "nearest" });
  }

  /** The focus goes on to the next picture. */
  private async remove(id: number): Promise<void> {
    const thumb = this.thumbs.get(id);
    const next = (thumb?.nextElementSibling ?? thumb?.previousElementSibling) as HTMLElement | null;
    await gallery.forget(id);
    fill(this.detail);
    await this.refresh();
    focusFirst(next);
    this.session.say("Deleted.");
  }
}
