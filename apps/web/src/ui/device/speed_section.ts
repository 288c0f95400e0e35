/** Device, third card: how fast it is here, and the fastest plan. */

import { fill, h, newId } from "../dom";
import { button, enable, saveFile, section } from "../parts";
import { ICONS } from "../icons";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";

const REPEATS = 5;
const OWN = `Times ${REPEATS} pictures after one that does not count; the row has the format of flowship bench.`;
const LAPTOPS = "The laptop's engine is measured by flowship bench and planned by flowship plan --save, on its command line.";

export class SpeedSection {
  private readonly result = h("div", {});
  private readonly bar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.bar = new ProgressBar(session);
    const note = h("p", { class: "note two-lines", id: newId("note") });
    const buttons = [
      button("Measure", () => this.measure(), undefined, "primary"),
      button("Find the fastest plan", () => this.calibrate()),
    ];
    for (const element of buttons) element.setAttribute("aria-describedby", note.id);
    this.element = section("Speed", note, h("div", { class: "row wrap" }, ...buttons), this.bar.element, this.result);
    session.watch(() => {
      const own = session.place !== "laptop";
      note.textContent = own ? OWN : LAPTOPS;
      for (const element of buttons) enable(element, own && !session.busy && session.model !== null);
    });
  }

  private async measure(): Promise<void> {
    const row = await this.bar.run("Measuring", (onProgress, signal) =>
      this.session.backend.benchmark({ repeats: REPEATS }, onProgress, signal));
    if (!row) return;
    const json = JSON.stringify([row], null, 2);
    const file = new File([json], "flowship-bench.json", { type: "application/json" });
    fill(this.result,
      h("p", { class: "number" }, h("strong", {}, row.median_ms.toFixed(0)), " ms a picture (median)"),
      h("p", {}, `${row.patches_per_s.toFixed(0)} patches/s, fastest ${row.min_ms.toFixed(0)} ms, `
        + `90 % below ${row.p90_ms.toFixed(0)} ms`),
      h("pre", { tabindex: 0, role: "region", "aria-label": "The row as JSON" }, json),
      button("Save JSON", () => saveFile(file), ICONS.save));
    this.session.say(`${row.median_ms.toFixed(0)} milliseconds a picture.`);
  }

  private async calibrate(): Promise<void> {
    const found = await this.bar.run("Timing window lengths", (onProgress, signal) =>
      this.session.browser.calibrate(onProgress, signal));
    if (!found) return;
    const chosen = found.options.filter((option) => option.chosen && !option.guided);
    fill(this.result, h("p", {}, `${(found.seconds.plain * 1000).toFixed(0)} ms a picture expected; `
      + chosen.map(({ stage, window }) => `${stage}: ${window}`).join(", ")));
  }
}
