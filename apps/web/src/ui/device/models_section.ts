/** Device, second card: the models that there are, and bundles of one's own. */

import { h } from "../dom";
import { focusFirst } from "../focus";
import { ICONS } from "../icons";
import { button, chooseFile, section } from "../parts";
import { askToPersist } from "../persistence";
import { ProgressBar } from "../progress_bar";
import type { Offer, Session } from "../session";
import { ModelRow } from "./model_row";

export class ModelsSection {
  private readonly list = h("ul", { class: "models" });
  private readonly choose = button("Open a bundle", () => this.chooseFile(), ICONS.open);
  private readonly bar: ProgressBar;
  private rows = new Map<string, ModelRow>();
  private refreshes = 0;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.bar = new ProgressBar(session);
    this.element = section("Models", this.list, this.choose,
      h("p", { class: "note" }, "A zipped .flowship folder, checked file by file before anything of it runs. It is kept in "
        + "this browser and runs in it."),
      this.bar.element);
    let shown: unknown;
    session.watch(() => {
      this.show();
      if (shown === session.model) return;
      shown = session.model;
      void this.refresh();
    });
  }

  /** Checks a zipped bundle, keeps it and opens it. */
  async importFile(file: File): Promise<void> {
    const { session } = this;
    const made = await this.bar.run(`Checking ${file.name}`, async (onProgress, signal) => {
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
    session.say(await askToPersist() ? `${made.name} is kept in this browser.`
      : `${made.name} is kept in this browser, until the browser needs the room for others.`);
    await session.use({ place: session.place === "gpu" ? "gpu" : "browser", id: made.id });
    await this.refresh();
  }

  async refresh(): Promise<void> {
    const turn = ++this.refreshes;
    const { offers, problem } = await this.session.offers();
    if (turn !== this.refreshes) return; // a newer one is on its way
    if (problem) this.session.sayError(problem, "list");
    else this.session.cured("list");
    const rows = new Map(offers.map((offer) => [keyOf(offer), this.rows.get(keyOf(offer)) ?? this.row(offer)]));
    for (const [key, row] of this.rows) if (!rows.has(key)) row.element.remove();
    let place = this.list.firstElementChild;
    for (const { element } of rows.values()) {
      // Moving an element takes the focus from it.
      if (element === place) place = place.nextElementSibling;
      else this.list.insertBefore(element, place);
    }
    this.rows = rows;
    this.show();
  }

  private show(): void {
    const places = new Set([...this.rows.keys()].map((key) => key.split(" ")[0]));
    for (const row of this.rows.values()) row.show(places.size > 1);
  }

  private row(offer: Offer): ModelRow {
    return new ModelRow(this.session, offer, () => void this.remove(offer));
  }

  private async remove({ model }: Offer): Promise<void> {
    const { session } = this;
    const open = session.model?.sha256 === model.sha256 && session.place !== "laptop";
    const removed = await session.exclusive(() => session.browser.store.remove(model.id).then(() => true));
    if (!removed) return;
    if (open) await session.use({ place: session.place });
    await this.refresh();
    focusFirst(this.choose);
  }

  private async chooseFile(): Promise<void> {
    const file = await chooseFile(".zip,.flowship,application/zip");
    if (file) await this.importFile(file);
  }
}

const keyOf = ({ place, model }: Offer): string => `${place} ${model.id} ${model.problem ?? ""}`;
