/** The picture that grows, and a strip of those that are ready. */

import type { Picture, Pixels, Progress } from "../engine/api";
import { fill, h } from "./dom";
import { paint } from "./pixels";
import type { Session } from "./session";
import { formatSeconds } from "./words";

export class GrowingPicture {
  private readonly canvas = h("canvas", { class: "picture big", role: "img", "aria-label": "No picture yet" });
  private readonly blocks = h("ol", { class: "blocks", "aria-hidden": "true" });
  private readonly caption = h("p", { class: "caption" }, "Your picture will grow here, patch by patch.");
  private readonly strip = h("div", { class: "strip" });

  constructor(session: Session) {
    this.canvas.width = this.canvas.height = 28;
    let shown: unknown;
    session.watch(() => {
      const { model } = session;
      if (!model || shown === model) return;
      shown = model;
      this.canvas.width = model.width;
      this.canvas.height = model.height;
      fill(this.blocks, ...Array.from({ length: model.numBlocks }, () => h("li", {})));
    });
  }

  /** From top to bottom, with a bar in between. */
  elements(bar: HTMLElement): HTMLElement[] {
    return [this.canvas, this.blocks, bar, this.caption, this.strip];
  }

  /** Makes room for all pictures at once, so that nothing moves when they come. */
  begin(count: number): void {
    const place = () => h("canvas", { class: "picture", role: "presentation", width: 1, height: 1 });
    fill(this.strip, ...(count > 1 ? Array.from({ length: count }, place) : []));
    // On a phone the button is below the picture.
    this.canvas.scrollIntoView({ block: "nearest" });
  }

  end(): void {
    for (const block of this.blocks.children) block.className = "";
    this.canvas.classList.remove("growing");
  }

  showProgress(event: Progress): void {
    if (event.kind === "denoising") this.caption.textContent = "Denoising";
    if (event.kind !== "progress") return;
    this.canvas.classList.add("growing");
    if (event.preview) paint(this.canvas, event.preview);
    [...this.blocks.children].forEach((block, i) => {
      block.className = i < event.blockIndex ? "done" : i === event.blockIndex ? "now" : "";
    });
    this.caption.textContent = `Block ${event.blockIndex + 1} of ${this.blocks.children.length}: `
      + `${event.patches} of ${event.numPatches} patches`;
  }

  /** One that is ready: its place in the run, and its title. */
  show({ pixels, recipe, seconds }: Picture, index: number, title: string): void {
    this.paint(this.canvas, pixels, title);
    const place = this.strip.children[index];
    if (place) this.paint(place as HTMLCanvasElement, pixels, title);
    this.caption.textContent = `${title}, made in ${formatSeconds(seconds)} by ${recipe.engineVersion} on ${recipe.device}`;
  }

  private paint(canvas: HTMLCanvasElement, pixels: Pixels, title: string): void {
    paint(canvas, pixels);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", title);
  }
}
