/** Buttons of one choice; a radio group to the keyboard and to screen readers. */

import { fill, h, newId } from "./dom";

export type Options<T> = readonly (readonly [T, string])[];

export class Chips<T> {
  readonly element: HTMLFieldSetElement;
  private readonly legend: HTMLLegendElement;
  private readonly name = newId("chips");
  private options: Options<T> = [];
  private inputs: HTMLInputElement[] = [];

  constructor(legend: string, private readonly onChoose: (value: T) => void, describedBy?: string) {
    this.legend = h("legend", {}, legend);
    this.element = h("fieldset", { class: "chips", "aria-describedby": describedBy }, this.legend);
  }

  /** What there is to choose and what is chosen; nothing is where that is none of them. The focus stays
   * where it is, so this may be called at any time. */
  show(options: Options<T>, chosen: T | undefined): void {
    if (!sameOptions(options, this.options)) this.build(options);
    this.inputs.forEach((input, i) => (input.checked = options[i]![0] === chosen));
  }

  private build(options: Options<T>): void {
    const focused = this.inputs.findIndex((input) => input === document.activeElement);
    const value = this.options[focused]?.[0];
    this.options = options;
    this.inputs = options.map(([option]) =>
      h("input", { type: "radio", name: this.name, onchange: () => this.onChoose(option) }));
    fill(this.element, this.legend,
      ...options.map(([, label], i) => h("label", {}, this.inputs[i]!, h("span", {}, label))));
    if (focused >= 0) this.inputs[Math.max(0, options.findIndex(([option]) => option === value))]?.focus();
  }
}

function sameOptions<T>(a: Options<T>, b: Options<T>): boolean {
  return a.length === b.length && a.every(([value, label], i) => value === b[i]![0] && label === b[i]![1]);
}
