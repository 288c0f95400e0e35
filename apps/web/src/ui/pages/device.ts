/** Device: where it computes, which models there are, and how fast it is. */

import { messageOf } from "../../core/errors";
import type { ModelSummary } from "../../engine/api";
import { fill, h, newId } from "../dom";
import { ICONS } from "../icons";
import { button, chips, chooseFile, ProgressBar, saveFile, section } from "../parts";
import type { Place, Session } from "../session";
import { ownThreadChoices } from "../threads";
import { formatBytes } from "../words";

const REPEATS = 5;

export class DevicePage {
  private readonly models = h("ul", { class: "models" });
  private readonly speed = h("div", {});
  private readonly importBar: ProgressBar;
  private readonly speedBar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.importBar = new ProgressBar(session);
    this.speedBar = new ProgressBar(session);
    this.element = h("div", { class: "stack" }, this.engines(),
      section("Models", this.models,
        button("Open a bundle", () => this.choose(), ICONS.open),
        h("p", { class: "note" }, "A zipped .flowship folder, checked file by file before anything of it runs."),
        this.importBar.element),
      section("Speed", h("p", { class: "note" }, `Times ${REPEATS} pictures after one that does not count; `
        + "the row has the format of flowship bench."),
        h("div", { class: "row wrap" },
          button("Measure", () => this.measure(), undefined, "primary"),
          button("Find the fastest plan", () => this.calibrate())),
        this.speedBar.element, this.speed));
    let shown: unknown;
    session.watch(() => {
      if (shown === session.model) return;
      shown = session.model;
      void this.refresh();
    });
  }

  /** Checks a zipped bundle, keeps it and opens it. */
  async importFile(file: File): Promise<void> {
    const { session } = this;
    const made = await this.importBar.run(`Checking ${file.name}`, async (onProgress, signal) => {
      const started = performance.now();
      return session.browser.store.importZip(file, (fraction) => {
        const seconds = (performance.now() - started) / 1000;
        onProgress({
          kind: "progress", block: "", blockIndex: 0, patches: 0, numPatches: 0, fraction, seconds,
          secondsLeft: fraction ? (seconds / fraction) * (1 - fraction) : 0, preview: null,
        });
      }, signal);
    });
    if (!made) return;
    session.say(`${made.name} is kept in this browser.`);
    await session.use("browser", made.id);
    await this.refresh();
  }

  async refresh(): Promise<void> {
    try {
      const found = await this.session.backend.listModels();
      fill(this.models, ...found.map((model) => this.row(model)));
    } catch (error) {
      this.session.say(messageOf(error), true);
    }
  }

  private engines(): HTMLElement {
    const { session } = this;
    const text = h("p", { class: "note", role: "status" });
    session.watch(() => {
      const engine = session.model?.engine;
      text.textContent = engine
        ? `${engine.version}, ${engine.device}, ${engine.precision}, ${engine.threads} `
          + `${engine.threads === 1 ? "thread" : "threads"}`
        : "No model is open.";
    });
    const options: [Place, string][] = [["browser", "this browser"]];
    if (session.laptop) options.push(["laptop", "this laptop's engine"]);
    const choice = h("div", {});
    const show = () => fill(choice, chips("Compute with", options,
      (place) => void session.use(place, session.model?.sha256), session.place));
    show();
    void hasGpu().then((found) => {
      if (!found) return;
      options.push(["gpu", "this browser's graphics card"]);
      show();
    });
    return section("Engine", choice, this.threads(), text,
      session.laptop ? null : h("p", { class: "note" }, "Start flowship serve on a laptop to use its native engine here."));
  }

  /** Only where browsers allow threads; of no use to the other engines. */
  private threads(): HTMLElement | null {
    const { session } = this;
    const choices = ownThreadChoices();
    if (choices.length === 0) return null;
    const note = h("p", { class: "note", id: newId("note") },
      "Of this browser's engine. Auto takes one for small models, which more would slow down, and up to 8 for large ones.");
    const choice = chips("Threads", choices.map((n) => [n, n === null ? "auto" : String(n)] as const),
      (threads) => session.useThreads(threads), session.threads, note.id);
    session.watch(() => (choice.disabled = session.place !== "browser"));
    return h("div", { class: "stacked" }, choice, note);
  }

  private row(model: ModelSummary): HTMLElement {
    const { session } = this;
    const open = model.id === session.model?.id;
    const remove = async () => {
      await session.exclusive(() => session.browser.store.remove(model.id));
      if (open) await session.use("browser");
      await this.refresh();
    };
    return h("li", { class: open ? "open" : "" },
      h("div", {}, h("strong", {}, model.name), h("small", {}, `${formatBytes(model.bytes)} · ${model.sha256.slice(0, 12)}`)),
      open ? h("span", { class: "badge" }, "open")
        : button("Use", () => session.use(session.place, model.id), undefined, "quiet"),
      model.removable && button("Remove", remove, ICONS.trash, "quiet"));
  }

  private async choose(): Promise<void> {
    const file = await chooseFile(".zip,.flowship,application/zip");
    if (file) await this.importFile(file);
  }

  private async measure(): Promise<void> {
    const row = await this.speedBar.run("Measuring", (onProgress, signal) =>
      this.session.backend.benchmark({ repeats: REPEATS }, onProgress, signal));
    if (!row) return;
    const json = JSON.stringify([row], null, 2);
    const file = new File([json], "flowship-bench.json", { type: "application/json" });
    fill(this.speed,
      h("p", { class: "number" }, h("strong", {}, row.median_ms.toFixed(0)), " ms a picture (median)"),
      h("p", {}, `${row.patches_per_s.toFixed(0)} patches/s, fastest ${row.min_ms.toFixed(0)} ms, `
        + `90 % below ${row.p90_ms.toFixed(0)} ms`),
      h("pre", { tabindex: 0, role: "region", "aria-label": "The row as JSON" }, json),
      button("Save JSON", () => saveFile(file), ICONS.save));
    this.session.say(`${row.median_ms.toFixed(0)} milliseconds a picture.`);
  }

  private async calibrate(): Promise<void> {
    const { session } = this;
    if (session.backend !== session.browser) {
      return session.say("The laptop's plan is made by flowship plan --save on its command line.", true);
    }
    const found = await this.speedBar.run("Timing window lengths", (onProgress, signal) =>
      session.browser.calibrate(onProgress, signal));
    if (!found) return;
    const chosen = found.options.filter((option) => option.chosen && !option.guided);
    fill(this.speed, h("p", {}, `${(found.seconds.plain * 1000).toFixed(0)} ms a picture expected; `
      + chosen.map(({ stage, window }) => `${stage}: ${window}`).join(", ")));
  }
}

/** Whether the browser offers WebGPU; lib.dom of this TypeScript does not know it. */
async function hasGpu(): Promise<boolean> {
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<unknown> } };
  return Boolean(await gpu?.requestAdapter().catch(() => null));
}
