/** A bar with the time that is left and a cancel button; room for it is always kept. */

import type { Progress } from "../engine/api";
import { h } from "./dom";
import { keepFocus } from "./focus";
import { ICONS } from "./icons";
import { button } from "./parts";
import type { Session, Task } from "./session";
import { describeWaiting, formatSeconds } from "./words";

const NOTICED = 300; // ms; most jobs of an idle laptop wait for less

export class ProgressBar {
  private readonly bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  private readonly text = h("span", { class: "progress-text" });
  private readonly cancel = button("Cancel", () => this.stop(), ICONS.close, "quiet cancel");
  readonly element = h("div", { class: "progress idle" }, this.bar, this.text, this.cancel);
  private controller: AbortController | undefined;
  private title = "";
  private timer = 0;

  constructor(private readonly session: Session) {}

  /** A task of the session; undefined means it failed or was cancelled, which was announced. */
  async run<T>(title: string, task: Task<T>, onProgress?: (event: Progress) => void) {
    if (this.session.busy) return this.session.exclusive(() => Promise.reject(new Error("busy")));
    const controller = (this.controller = new AbortController());
    const before = document.activeElement as HTMLElement | null;
    this.element.classList.remove("idle");
    this.bar.removeAttribute("value");
    this.text.textContent = this.title = title;
    const show = (event: Progress) => {
      if (!controller.signal.aborted) this.show(event);
      onProgress?.(event);
    };
    try {
      return await this.session.exclusive(() => task(show, controller.signal));
    } finally {
      window.clearTimeout(this.timer);
      keepFocus(this.element, () => this.element.classList.add("idle"), before);
      this.text.textContent = "";
    }
  }

  private show(event: Progress): void {
    window.clearTimeout(this.timer);
    if (event.kind === "waiting") {
      const say = () => (this.text.textContent = `${this.title}: ${describeWaiting(event.ahead)}`);
      this.timer = window.setTimeout(say, NOTICED);
    }
    if (event.kind === "denoising") this.text.textContent = `${this.title}: denoising`;
    if (event.kind !== "progress") return;
    this.bar.value = event.fraction;
    this.text.textContent = `${this.title}: ${Math.round(event.fraction * 100)} %, ${formatSeconds(event.secondsLeft)} left`;
  }

  private stop(): void {
    this.controller?.abort();
    this.text.textContent = "Cancelling";
  }
}
