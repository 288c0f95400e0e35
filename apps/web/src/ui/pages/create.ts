/** Create: class, seed, guidance, count, and the picture as it grows. */

import { describeRecipe, MAX_SEED, parseSeed, type Recipe } from "../../core/recipe";
import type { GenerateRequest, Picture, Pixels, Progress } from "../../engine/api";
import { fill, h, icon, newId } from "../dom";
import { ICONS } from "../icons";
import * as gallery from "../gallery_store";
import { button, chips, dumpRecipe, ProgressBar, pictureOf, recipeTable, section, Switch } from "../parts";
import { compare, describeDifference, paint, withChannels } from "../pixels";
import type { Session } from "../session";
import { describeDenoise, formatSeconds } from "../words";

const MAX_COUNT = 64;

export class CreatePage {
  private label: number | null = null;
  private readonly classes = h("div", { class: "classes waiting" });
  private readonly seed = h("input", {
    id: newId("seed"), inputmode: "numeric", value: "7", autocomplete: "off", pattern: "[0-9]{1,20}",
  });
  private readonly guidance = h("input", {
    id: newId("guidance"), type: "range", min: 0, max: 5, step: 0.1, value: "1.5",
  });
  private readonly guidanceText = h("output", { for: this.guidance.id }, "1.5");
  private readonly denoise = new Switch("Denoise");
  private readonly count = h("input", {
    id: newId("count"), type: "number", min: 1, max: MAX_COUNT, value: "1",
  });
  private readonly go = button("Make a picture", () => this.make(), ICONS.create, "primary");
  private readonly canvas = h("canvas", { class: "picture big", role: "img", "aria-label": "No picture yet" });
  private readonly blocks = h("ol", { class: "blocks", "aria-hidden": "true" });
  private readonly strip = h("div", { class: "strip" });
  private readonly caption = h("p", { class: "caption" }, "Your picture will grow here, patch by patch.");
  private readonly found = h("div", {});
  private readonly bar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session, private readonly onKept: () => void) {
    this.bar = new ProgressBar(session);
    this.guidance.addEventListener("input", () => (this.guidanceText.value = this.guidance.value));
    this.canvas.width = this.canvas.height = 28;
    this.element = h("div", { class: "two" },
      section("Create",
        this.classes,
        h("div", { class: "field" }, h("label", { for: this.seed.id }, "Seed"),
          h("div", { class: "row" }, this.seed, this.dice())),
        h("div", { class: "field" },
          h("label", { for: this.guidance.id }, "Guidance ", this.guidanceText), this.guidance),
        this.denoise.element,
        h("div", { class: "field" }, h("label", { for: this.count.id }, "How many"), this.count),
        this.go),
      h("div", { class: "stage" }, this.canvas, this.blocks, this.bar.element, this.caption, this.strip,
        this.found));
    let shown: unknown;
    session.watch(() => {
      this.go.disabled = session.busy || !session.model;
      if (shown !== session.model) {
        shown = session.model;
        this.showModel();
      }
    });
  }

  /** Makes the pictures of a recipe again and compares the first with what was dropped. */
  async makeAgain(recipe: Recipe, dropped: Pixels | null): Promise<void> {
    const { session } = this;
    if (recipe.bundleSha256 !== session.opened.sha256) {
      const models = await session.backend.listModels();
      if (!models.some(({ sha256 }) => sha256 === recipe.bundleSha256)) {
        session.say(`this picture was made with another bundle (${recipe.bundle}): open it under Device`, true);
        return;
      }
      await session.use(session.place, recipe.bundleSha256);
    }
    const made = await this.run(recipe.seeds.map((seed, i) => ({
      seed, label: recipe.labels[i] ?? null, guidance: recipe.guidance, guideWhat: recipe.guideWhat,
      annealed: recipe.annealedGuidance, attnTemp: recipe.attnTemp, denoise: recipe.denoise,
      plan: recipe.plan,
    })));
    const first = made?.at(0);
    if (!first || !dropped || recipe.seeds.length > 1) return;
    const channels = first.pixels.channels === 1 ? 1 : 3;
    const words = describeDifference(compare(withChannels(dropped, channels), withChannels(first.pixels, channels)));
    fill(this.found, section("Made again",
      h("div", { class: "pair" }, pictureOf(dropped, "The dropped picture"), pictureOf(first.pixels, "Made again")),
      h("p", { class: "verdict" }, words)));
    session.say(words);
  }

  /** Shows the recipe of a dropped picture and offers to make it again. */
  showRecipe(recipe: Recipe, dropped: Pixels): void {
    fill(this.found, section("This picture carries its recipe",
      h("p", {}, describeRecipe(recipe)), recipeTable(recipe, this.session.model?.classes ?? []),
      button("Make it again", () => this.makeAgain(recipe, dropped), ICONS.again, "primary")));
    this.found.scrollIntoView({ block: "nearest" });
  }

  private dice(): HTMLButtonElement {
    const roll = () => {
      const [high, low] = crypto.getRandomValues(new Uint32Array(2));
      // 53 bits, so that any program may read the seed as a number.
      this.seed.value = String(((BigInt(high!) << 32n) | BigInt(low!)) >> 11n);
    };
    return h("button", { type: "button", class: "quiet square", "aria-label": "Random seed", onclick: roll },
      icon(ICONS.dice));
  }

  private showModel(): void {
    const model = this.session.model;
    const names = model?.classes ?? [];
    this.label = names.length ? 0 : null;
    const options: [number | null, string][] = names.map((name, i) => [i, name]);
    fill(this.classes, options.length > 0
      && chips<number | null>("What", [...options, [null, "anything"]], (v) => (this.label = v), this.label));
    this.guidance.disabled = !model?.guidance;
    this.denoise.offer(model?.denoise ?? false, describeDenoise(model));
    if (model) {
      this.classes.classList.remove("waiting");
      this.canvas.width = model.width;
      this.canvas.height = model.height;
      fill(this.blocks, ...Array.from({ length: model.numBlocks }, () => h("li", {})));
    }
  }

  private async make(): Promise<void> {
    let first: bigint;
    try {
      first = parseSeed(this.seed.value);
    } catch (error) {
      this.session.say((error as Error).message, true);
      this.seed.focus();
      return;
    }
    const count = Math.min(MAX_COUNT, Math.max(1, Math.round(this.count.valueAsNumber || 1)));
    const guidance = this.session.opened.guidance && this.label !== null ? this.guidance.valueAsNumber : 0;
    const seeds = Array.from({ length: count }, (_, i) => (first + BigInt(i)) & MAX_SEED);
    const { label, denoise: { on: denoise } } = this;
    await this.run(seeds.map((seed) => ({ seed, label, guidance, denoise })));
  }

  private async run(wanted: readonly GenerateRequest[]): Promise<Picture[] | undefined> {
    fill(this.strip);
    fill(this.found);
    const many = wanted.length > 1;
    // On a phone the button is below the picture.
    this.canvas.scrollIntoView({ block: "nearest" });
    let at = 0;
    const show = (event: Progress) => this.showProgress(event);
    const made = await this.bar.run(many ? `${wanted.length} pictures` : "Picture", async (onProgress, signal) => {
      const pictures: Picture[] = [];
      for (; at < wanted.length; at++) {
        const whole = (event: Progress) => onProgress(event.kind !== "progress" ? event : {
          ...event, fraction: (at + event.fraction) / wanted.length,
          secondsLeft: event.secondsLeft + (wanted.length - at - 1) * (event.seconds + event.secondsLeft),
        });
        const picture = await this.session.backend.generate(wanted[at]!, whole, signal);
        pictures.push(picture);
        await this.keep(picture, many);
      }
      return pictures;
    }, show);
    for (const block of this.blocks.children) block.className = "";
    this.canvas.classList.remove("growing");
    return made;
  }

  private showProgress(event: Progress): void {
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

  private async keep(picture: Picture, many: boolean): Promise<void> {
    const { pixels, recipe, seconds } = picture;
    paint(this.canvas, pixels);
    const label = recipe.labels[0] ?? null;
    const name = label === null ? "Picture" : (this.session.model?.classes[label] ?? "Picture");
    const words = `${name}, seed ${recipe.seeds[0]}`;
    this.canvas.setAttribute("aria-label", words);
    this.caption.textContent = `${words}, made in ${formatSeconds(seconds)} `
      + `by ${recipe.engineVersion} on ${recipe.device}`;
    this.session.say(`${words} is ready.`);
    if (many) this.strip.append(pictureOf(pixels, words));
    await gallery.keep(pixels, dumpRecipe(recipe));
    this.onKept();
  }
}
