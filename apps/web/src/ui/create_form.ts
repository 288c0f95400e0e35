/** The form of Create: class, seed, guidance, denoise, how many. */

import { MAX_COUNT } from "../core/again";
import { MAX_SEED, parseSeed } from "../core/recipe";
import type { GenerateRequest, ModelInfo } from "../engine/api";
import { Chips } from "./chips";
import { fill, h, icon, newId } from "./dom";
import { ICONS } from "./icons";
import { button, enable, isEnabled, Switch } from "./parts";
import type { Session } from "./session";
import { describeDenoise } from "./words";

export class CreateForm {
  private label: number | null = null;
  private readonly classes = h("div", { class: "classes waiting" });
  private readonly classChips = new Chips<number | null>("What", (label) => this.chooseClass(label));
  private readonly seed = h("input", { id: newId("seed"), inputmode: "numeric", value: "7", autocomplete: "off" });
  private readonly guidance = h("input", {
    id: newId("guidance"), type: "range", min: 0, max: 5, step: 0.1, value: "1.5",
  });
  private readonly guidanceText = h("output", { for: this.guidance.id });
  private readonly denoise = new Switch("Denoise");
  private readonly count = h("input", { id: newId("count"), type: "number", min: 1, max: MAX_COUNT, value: "1" });
  private readonly go = button("Make a picture", undefined, ICONS.create, "primary");
  readonly element: HTMLFormElement;

  constructor(private readonly session: Session, onSubmit: (wanted: GenerateRequest[]) => void) {
    this.guidance.addEventListener("input", () => this.showGuidance());
    for (const field of [this.seed, this.count]) field.addEventListener("input", () => session.cured("input"));
    this.element = h("form", { class: "fields", novalidate: true },
      this.classes,
      h("div", { class: "field" }, h("label", { for: this.seed.id }, "Seed"),
        h("div", { class: "row" }, this.seed, this.dice())),
      h("div", { class: "field" },
        h("label", { for: this.guidance.id }, "Guidance ", this.guidanceText), this.guidance),
      this.denoise.element,
      h("div", { class: "field" }, h("label", { for: this.count.id }, "How many"), this.count),
      this.go);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = isEnabled(this.go) ? this.read() : null;
      if (wanted) onSubmit(wanted);
    });
    let shown: unknown;
    session.watch(() => {
      enable(this.go, !session.busy && session.model !== null);
      if (shown === session.model && shown !== undefined) return;
      shown = session.model;
      this.showModel(session.model);
    });
  }

  private dice(): HTMLButtonElement {
    const roll = () => {
      const [high, low] = crypto.getRandomValues(new Uint32Array(2));
      // 53 bits, so that any program may read the seed as a number.
      this.seed.value = String(((BigInt(high!) << 32n) | BigInt(low!)) >> 11n);
      this.session.cured("input");
    };
    return h("button", { type: "button", class: "quiet square", "aria-label": "Random seed", onclick: roll },
      icon(ICONS.dice));
  }

  private showModel(model: ModelInfo | null): void {
    const names = model?.classes ?? [];
    this.label = names.length ? 0 : null;
    const options = names.map((name, i): [number | null, string] => [i, name]);
    this.classChips.show([...options, [null, "anything"]], this.label);
    fill(this.classes, options.length > 0 && this.classChips.element);
    this.denoise.offer(model?.denoise ?? false, describeDenoise(model));
    if (model) this.classes.classList.remove("waiting");
    this.showGuidance();
  }

  private chooseClass(label: number | null): void {
    this.label = label;
    this.showGuidance();
  }

  /** Guidance is away from "anything" and towards a class: without a class there is none. */
  private get isGuided(): boolean {
    return Boolean(this.session.model?.guidance) && this.label !== null;
  }

  private showGuidance(): void {
    const { model } = this.session;
    this.guidance.disabled = !this.isGuided;
    if (this.isGuided) this.guidanceText.value = this.guidance.value;
    else this.guidanceText.value = model?.guidance && model.classes.length ? "none without a class" : "none";
  }

  /** What is asked for; null where something is wrong, which is said. */
  private read(): GenerateRequest[] | null {
    let first: bigint;
    try {
      first = parseSeed(this.seed.value);
    } catch (error) {
      return this.refuse(this.seed, (error as Error).message);
    }
    const count = this.count.valueAsNumber;
    if (!Number.isInteger(count) || count < 1 || count > MAX_COUNT) {
      return this.refuse(this.count, `How many is not a whole number from 1 to ${MAX_COUNT}.`);
    }
    const { label, denoise: { on: denoise } } = this;
    const guidance = this.isGuided ? this.guidance.valueAsNumber : 0;
    return Array.from({ length: count }, (_, i) => ({ seed: (first + BigInt(i)) & MAX_SEED, label, guidance, denoise }));
  }

  private refuse(field: HTMLInputElement, message: string): null {
    this.session.say(message, "input");
    field.focus();
    return null;
  }
}
