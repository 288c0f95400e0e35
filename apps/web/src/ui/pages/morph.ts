/** Morph: pictures on the way between two latents. */

import type { Pixels } from "../../engine/api";
import { h } from "../dom";
import { ICONS } from "../icons";
import { button, enable, section } from "../parts";
import { PicturePicker } from "../picker";
import { paint } from "../pixels";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";

const STEPS = 13; // pictures, both ends included
const FRAME = 110; // ms

export class MorphPage {
  private frames: Pixels[] = [];
  private timer = 0;
  private readonly first: PicturePicker;
  private readonly last: PicturePicker;
  private readonly canvas = h("canvas", { class: "picture big", role: "img", "aria-label": "No morph yet" });
  private readonly slider = h("input", {
    type: "range", min: 0, max: STEPS - 1, value: "0", disabled: true, "aria-label": "Way from the first to the second picture",
  });
  private readonly play = button("Play", () => this.toggle(), ICONS.play);
  private readonly bar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.bar = new ProgressBar(session);
    this.first = new PicturePicker(session, "From", () => this.stop());
    this.last = new PicturePicker(session, "To", () => this.stop());
    const go = button("Morph", () => this.morph(), ICONS.morph, "primary");
    enable(this.play, false);
    this.slider.addEventListener("input", () => {
      this.stop();
      this.show();
    });
    this.element = h("div", { class: "two" },
      section("Morph", h("p", { class: "note" }, "Two pictures become latents; every point between them is a picture too."),
        h("div", { class: "pair" }, this.first.element, this.last.element), go),
      h("div", { class: "stage" }, this.canvas, this.slider, h("div", { class: "row" }, this.play), this.bar.element));
    session.watch(() => enable(go, !session.busy && session.model !== null));
  }

  /** Takes a picture from another page: the first free place, or the second. */
  take(pixels: Pixels): void {
    (this.first.chosen ? this.last : this.first).set(pixels);
  }

  private async morph(): Promise<void> {
    const { session } = this;
    const [from, to] = [this.first.chosen, this.last.chosen];
    if (!from || !to) return session.say("Choose two pictures first.", "input");
    this.stop();
    this.canvas.scrollIntoView({ block: "nearest" }); // on a phone it is above the button
    const frames: Pixels[] = [];
    const made = await this.bar.run("Morph", async (onProgress, signal) => {
      const started = performance.now();
      const first = (await session.backend.encode(from, null, signal)).z;
      const last = (await session.backend.encode(to, null, signal)).z;
      const onPicture = (index: number, { pixels }: { pixels: Pixels }) => {
        frames[index] = pixels;
        paint(this.canvas, pixels);
        const fraction = frames.length / STEPS;
        const seconds = (performance.now() - started) / 1000;
        onProgress({
          kind: "progress", block: "", blockIndex: 0, patches: 0, numPatches: 0, fraction, seconds,
          secondsLeft: (seconds / fraction) * (1 - fraction), preview: null,
        });
      };
      return session.backend.interpolate({ first, last, steps: STEPS }, onPicture, signal);
    });
    if (!made) return;
    this.frames = made.map(({ pixels }) => pixels);
    this.slider.disabled = false;
    enable(this.play, true);
    this.canvas.setAttribute("aria-label", `A morph of ${STEPS} pictures`);
    this.show();
    session.say("The morph is ready: move the slider.");
  }

  private show(): void {
    const frame = this.frames[this.slider.valueAsNumber];
    if (frame) paint(this.canvas, frame);
  }

  private toggle(): void {
    if (this.timer) return this.stop();
    this.play.lastChild!.textContent = "Pause";
    let direction = 1;
    this.timer = window.setInterval(() => {
      const at = this.slider.valueAsNumber;
      if (at + direction < 0 || at + direction >= STEPS) direction = -direction;
      this.slider.value = String(at + direction);
      this.show();
    }, FRAME);
  }

  private stop(): void {
    window.clearInterval(this.timer);
    this.timer = 0;
    this.play.lastChild!.textContent = "Play";
  }
}
