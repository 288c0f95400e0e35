/** Device, first card: where it computes, and with how many threads. */

import { isServed } from "../../backends/server_client";
import { Chips } from "../chips";
import { h, newId } from "../dom";
import { section } from "../parts";
import type { Place, Session } from "../session";
import { ownThreadChoices } from "../threads";
import { describeEngine } from "../travel";

export class EngineSection {
  private readonly note = h("p", { class: "note travel" });
  private hasGpu = false;
  /** Whether a server without a token is behind the page; asked when the page is shown first. */
  private served: Promise<boolean> | undefined;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    const status = h("p", { class: "note", role: "status" });
    const places = new Chips<Place>("Compute with", (place) => session.choose({ ...session.choice, place }));
    this.element = section("Engine", places.element, this.note, this.threads(), status);
    const show = () => {
      places.show(this.places(), session.choice.place);
      status.textContent = describeStatus(session);
      void this.describe();
    };
    session.watch(show);
    void hasGpu().then((found) => {
      this.hasGpu = found;
      show();
    });
  }

  /** The page is shown. */
  shown(): void {
    void this.describe();
  }

  private places(): [Place, string][] {
    const found: [Place, string][] = [["browser", "this browser"]];
    if (this.session.laptop) found.push(["laptop", "this laptop's engine"]);
    if (this.hasGpu) found.push(["gpu", "this browser's graphics card"]);
    return found;
  }

  private async describe(): Promise<void> {
    const { session } = this;
    // Where a laptop's engine is connected there is nothing to ask, and other pages never need to know.
    if (!session.laptop && this.element.isConnected) this.served ??= isServed();
    const served = (await this.served) ?? false;
    this.note.textContent = describeEngine(session.place, location, session.laptop !== null, served);
  }

  /** Only where browsers allow threads; of no use to the other engines. */
  private threads(): HTMLElement | null {
    const { session } = this;
    const choices = ownThreadChoices();
    if (choices.length === 0) return null;
    const note = h("p", { class: "note", id: newId("note") },
      "Of this browser's engine. Auto takes one for small models, which more would slow down, and up to 8 for large ones.");
    const chips = new Chips<number | null>("Threads", (threads) => session.useThreads(threads), note.id);
    const options = choices.map((n): [number | null, string] => [n, n === null ? "auto" : String(n)]);
    session.watch(() => {
      chips.show(options, session.threads);
      chips.element.disabled = session.choice.place !== "browser";
    });
    return h("div", { class: "stacked" }, chips.element, note);
  }
}

function describeStatus({ model }: Session): string {
  if (!model) return "No model is open.";
  const { version, device, precision, threads } = model.engine;
  return `${version}, ${device}, ${precision}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

/** Whether the browser offers WebGPU; lib.dom of this TypeScript does not know it. */
async function hasGpu(): Promise<boolean> {
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<unknown> } };
  return Boolean(await gpu?.requestAdapter().catch(() => null));
}
