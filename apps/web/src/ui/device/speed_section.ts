/** Device, third card: how fast it is here, and the fastest plan. */

import { fill, h, newId } from "../dom";
import { button, enable, saveFile, section } from "../parts";
import { ICONS } from "../icons";
import { describeTrust } from "../words";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";

const OWN = "Warms up, then times pictures until the median is sure or 15 seconds are over; the row has the format "
  + "of flowship bench.";
const LAPTOPS = "Times the laptop's engine by its own clock. Its plan is found by flowship plan --save, on its command line.";

export class SpeedSection {
  private readonly result = h("div", { class: "extra" });
  private readonly bar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.bar = new ProgressBar(session);
    const note = h("p", { class: "note two-lines", id: newId("note") });
    const measure = button("Measure", () => this.measure(), undefined, "primary");
    const plan = button("Find the fastest plan", () => this.calibrate());
    for (const element of [measure, plan]) element.setAttribute("aria-describedby", note.id);
    this.element = section("Speed", note, h("div", { class: "row wrap" }, measure, plan), this.bar.element, this.result);
    let shown: unknown;
    session.watch(() => {
      if (shown !== session.model) fill(this.result); // what is there is another model's or engine's
      shown = session.model;
      const own = session.place !== "laptop";
      const ready = !session.busy && session.model !== null;
      note.textContent = own ? OWN : LAPTOPS;
      enable(measure, ready);
      enable(plan, own && ready);
    });
  }

  private async measure(): Promise<void> {
    const row = await this.bar.run("Measuring", (onProgress, signal) =>
      this.session.backend.benchmark({}, onProgress, signal));
    if (!row) return;
    const json = JSON.stringify([row], null, 2);
    const file = new File([json], "flowship-bench.json", { type: "application/json" });
    const verdict = h("p", { class: "verdict" }, describeTrust(row));
    fill(this.result,
      h("p", { class: "number" }, h("strong", {}, formatMs(row.median_ms)), " ms a picture (median)"),
      verdict,
      h("p", {}, `${row.samples_used} pictures by ${row.engine_version}, ${row.device}, ${row.precision}: the middle half `
        + `is ${Math.round(100 * row.spread)} % wide, the fastest took ${formatMs(row.min_ms)} ms, 90 % took less than `
        + `${formatMs(row.p90_ms)} ms; ${formatMs(row.patches_per_s)} patches/s`),
      h("pre", { tabindex: 0, role: "region", "aria-label": "The row as JSON" }, json),
      h("div", { class: "row" }, button("Save JSON", () => saveFile(file), ICONS.save)));
    verdict.scrollIntoView({ block: "nearest" }); // never the number alone
    this.session.say(`${formatMs(row.median_ms)} milliseconds a picture, ${row.trust}.`);
  }

  private async calibrate(): Promise<void> {
    const found = await this.bar.run("Timing window lengths", (onProgress, signal) =>
      this.session.browser.calibrate(onProgress, signal));
    if (!found) return;
    const chosen = found.options.filter((option) => option.chosen && !option.guided);
    const faster = chosen.some(({ window }) => window > 1);
    // Expected times stay out: they are sums over calls that were not judged as a measurement is.
    fill(this.result, h("p", {}, faster
      ? `Patches a call, from now on: ${chosen.map(({ stage, window }) => `${stage} ${window}`).join(", ")}.`
      : "One patch a call is the fastest here."));
  }
}

/** Three digits, no more than a measurement has. */
function formatMs(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
