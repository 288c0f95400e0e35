/** Small parts that several pages use. */

import { dumpRecipe, loadRecipe, PHILOX_NOISE, type Recipe, seedRanges } from "../core/recipe";
import { encodePng } from "../core/png";
import type { Pixels } from "../engine/api";
import { h, icon, newId } from "./dom";
import { paint } from "./pixels";
import type { Session } from "./session";

/** Without `onclick` it sends its form. */
export function button(
  label: string, onclick?: () => unknown, drawing?: string, kind = "",
): HTMLButtonElement {
  const element = h("button", { type: onclick ? "button" : "submit", class: kind }, drawing ? icon(drawing) : null, label);
  element.addEventListener("click", (event) => {
    if (!isEnabled(element)) event.preventDefault();
    else onclick?.();
  });
  return element;
}

/** A button that is off keeps the focus, which browsers take from one with the attribute `disabled`. */
export function enable(element: HTMLButtonElement, enabled: boolean): void {
  if (enabled) element.removeAttribute("aria-disabled");
  else element.setAttribute("aria-disabled", "true");
}

export const isEnabled = (element: HTMLButtonElement): boolean => element.getAttribute("aria-disabled") !== "true";

export function pictureOf(pixels: Pixels, text: string): HTMLCanvasElement {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": text });
  paint(canvas, pixels);
  return canvas;
}

export function section(title: string, ...children: (Node | string | null)[]): HTMLElement {
  const id = newId("heading");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
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
    if (error.name !== "AbortError") session.say(error.message, "task");
  });
}

export const canShare = (): boolean => typeof navigator.share === "function";

/** The recipe as rows of names and values. */
export function recipeTable(recipe: Recipe, className: string | null): HTMLElement {
  const rows: [string, string][] = [
    ["Model", recipe.bundle], ["Class", className ?? "any"],
    recipe.noise === PHILOX_NOISE ? ["Seed", seedRanges(recipe.seeds)] : ["Noise", "given"],
    ["Guidance", String(recipe.guidance)],
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
