/** Small parts that several pages use. */

import { dumpRecipe, loadRecipe, type Recipe } from "../core/recipe";
import { encodePng } from "../core/png";
import type { Pixels, Progress } from "../engine/api";
import { h, icon, newId } from "./dom";
import { ICONS } from "./icons";
import { paint } from "./pixels";
import type { Session, Task } from "./session";
import { formatSeconds } from "./words";

export function button(
  label: string, onclick: () => unknown, drawing?: string, kind = "",
): HTMLButtonElement {
  return h("button", { type: "button", class: kind, onclick }, drawing ? icon(drawing) : null, label);
}

export function pictureOf(pixels: Pixels, text: string): HTMLCanvasElement {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": text });
  paint(canvas, pixels);
  return canvas;
}

export function section(title: string, ...children: (Node | string | null)[]): HTMLElement {
  const id = newId("heading");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** Buttons of one choice; a radio group to the keyboard and to screen readers. */
export function chips<T>(
  legend: string, options: readonly (readonly [T, string])[], onChoose: (value: T) => void, chosen: T,
  describedBy?: string,
): HTMLFieldSetElement {
  const name = newId("chips");
  return h("fieldset", { class: "chips", "aria-describedby": describedBy }, h("legend", {}, legend),
    ...options.map(([value, label]) => h("label", {},
      h("input", { type: "radio", name, checked: value === chosen, onchange: () => onChoose(value) }),
      h("span", {}, label))));
}

/** A labelled switch with a line below it, for which two lines are kept. */
export class Switch {
  private readonly note = h("p", { class: "note", id: newId("note") });
  private readonly input = h("input", { type: "checkbox", role: "switch", "aria-describedby": this.note.id });
  readonly element: HTMLElement;

  constructor(label: string) {
    this.element = h("div", { class: "switch" }, h("label", {}, label, this.input), this.note);
  }

  get on(): boolean {
    return this.input.checked;
  }

  /** Where it is not offered it is off. */
  offer(offered: boolean, note: string): void {
    this.input.disabled = !offered;
    this.input.checked &&= offered;
    this.note.textContent = note;
  }
}

/** A bar with the time that is left and a cancel button; room for it is always kept. */
export class ProgressBar {
  private readonly bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  private readonly text = h("span", { class: "progress-text" });
  private readonly cancel = button("Cancel", () => this.controller?.abort(), ICONS.close, "quiet cancel");
  readonly element = h("div", { class: "progress idle" }, this.bar, this.text, this.cancel);
  private controller: AbortController | undefined;

  constructor(private readonly session: Session) {}

  async run<T>(title: string, task: Task<T>, onProgress?: (event: Progress) => void) {
    if (this.session.busy) return this.session.exclusive(() => Promise.reject(new Error("busy")));
    const controller = (this.controller = new AbortController());
    this.element.classList.remove("idle");
    this.bar.removeAttribute("value");
    this.text.textContent = title;
    const show = (event: Progress) => {
      if (event.kind === "progress") {
        this.bar.value = event.fraction;
        this.text.textContent = `${title}: ${Math.round(event.fraction * 100)} %, `
          + `${formatSeconds(event.secondsLeft)} left`;
      }
      if (event.kind === "denoising") this.text.textContent = `${title}: denoising`;
      onProgress?.(event);
    };
    try {
      return await this.session.exclusive(() => task(show, controller.signal));
    } finally {
      this.element.classList.add("idle");
      this.text.textContent = "";
    }
  }
}

export async function pngFile(pixels: Pixels, recipe: string): Promise<File> {
  const made = loadRecipe(recipe);
  const bytes = await encodePng(pixels, made);
  return new File([bytes as Uint8Array<ArrayBuffer>], fileName(made), { type: "image/png" });
}

/** Such as "fashion-mnist-class7-seed7.png". */
function fileName(recipe: Recipe): string {
  const name = recipe.bundle.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  const label = recipe.labels[0] ?? null;
  return `${name}${label === null ? "" : `-class${label}`}-seed${recipe.seeds[0]}.png`;
}

export function saveFile(file: File): void {
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: file.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export async function share(session: Session, file: File): Promise<void> {
  await navigator.share({ files: [file] }).catch((error: Error) => {
    if (error.name !== "AbortError") session.say(error.message, true);
  });
}

export const canShare = (): boolean => typeof navigator.share === "function";

/** The recipe as rows of names and values. */
export function recipeTable(recipe: Recipe, classes: readonly string[]): HTMLElement {
  const label = recipe.labels[0] ?? null;
  const rows: [string, string][] = [
    ["Model", recipe.bundle], ["Class", label === null ? "any" : (classes[label] ?? `class ${label}`)],
    ["Seed", recipe.seeds.join(", ")], ["Guidance", String(recipe.guidance)],
    ["Denoised", recipe.denoise ? "yes" : "no"],
    ["Engine", `${recipe.engine} ${recipe.engineVersion}, ${recipe.device}`],
    ["Precision", recipe.precision], ["Bundle hash", recipe.bundleSha256.slice(0, 16)],
  ];
  return h("dl", { class: "recipe" }, ...rows.map(([k, v]) =>
    h("div", {}, h("dt", {}, k), h("dd", {}, v))));
}

export { dumpRecipe, loadRecipe };

/** Asks for a file. */
export function chooseFile(accept: string): Promise<File | null> {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept });
    input.onchange = () => resolve(input.files?.[0] ?? null);
    input.oncancel = () => resolve(null);
    input.click();
  });
}
