/** Look inside: likelihood, latent and reconstruction of a picture. */

import type { Pixels } from "../../engine/api";
import { Chips } from "../chips";
import { describeDifference } from "../differences";
import { fill, h } from "../dom";
import { ICONS } from "../icons";
import { button, enable, pictureOf, section } from "../parts";
import { PicturePicker } from "../picker";
import { compare, latentPicture } from "../pixels";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";
import { describeBits } from "../words";

export class InsidePage {
  private label: number | null = null;
  private readonly classes = h("div", {});
  private readonly classChips = new Chips<number | null>("Seen as", (label) => (this.label = label));
  private readonly result = h("div", { class: "stage below" });
  private readonly picker: PicturePicker;
  private readonly bar: ProgressBar;
  readonly element: HTMLElement;

  constructor(private readonly session: Session) {
    this.bar = new ProgressBar(session);
    const go = button("Look inside", () => this.analyse(), ICONS.inside, "primary");
    this.picker = new PicturePicker(session, "Picture", () => void this.analyse());
    this.element = h("div", { class: "two" },
      section("Look inside a picture",
        h("p", { class: "note" }, "Only an invertible model can do this: every picture has an exact "
          + "probability and a latent that leads back to it. Open, draw or drop one."),
        this.picker.element, this.classes, go, this.bar.element),
      this.result);
    let shown: unknown;
    session.watch(() => {
      enable(go, !session.busy && session.model !== null);
      if (shown === session.model) return;
      shown = session.model;
      this.label = null;
      const options = (session.model?.classes ?? []).map((name, i): [number | null, string] => [i, name]);
      this.classChips.show([[null, "anything"], ...options], null);
      fill(this.classes, options.length > 0 && this.classChips.element);
    });
  }

  /** Takes a picture from another page or a drop. */
  show(pixels: Pixels): void {
    this.picker.set(pixels);
  }

  private async analyse(): Promise<void> {
    const { session, picker, label } = this;
    const picture = picker.chosen;
    if (!picture) return session.say("Choose a picture first.", true);
    if (!session.busy) fill(this.result); // what is there is another picture's
    const found = await this.bar.run("Looking inside", async (onProgress, signal) => {
      const model = session.opened;
      const score = await session.backend.score(picture, { label }, signal);
      const { z, input } = await session.backend.encode(picture, label, signal);
      const back = await session.backend.decode({ latent: z, input: "z", label }, onProgress, signal);
      return { model, score, z, input, back: back.pixels };
    });
    if (!found) return;
    const { model, score, z, input, back } = found;
    const verdict = describeBits(score.bitsPerDim, model.trainingNoise);
    const latent = latentPicture(z, model.width, model.height, model.channels, model.patchSize);
    const figure = (pixels: Pixels, text: string) =>
      h("figure", {}, pictureOf(pixels, text), h("figcaption", {}, text));
    const card = section(verdict.title,
      h("p", { class: "number" }, h("strong", {}, score.bitsPerDim.toFixed(3)), " bits/dim"),
      h("meter", { min: 0, max: 16, value: Math.max(0, score.bitsPerDim), "aria-label": "bits per dimension, 8 is raw pixels" }),
      h("p", {}, verdict.text), h("p", { class: "note" }, score.convention));
    fill(this.result, card,
      h("div", { class: "trio" }, figure(input, "What the model sees"), figure(latent, "Its latent"),
        figure(back, "Back from the latent")),
      h("p", { class: "verdict" }, describeDifference(compare(input, back))));
    card.scrollIntoView({ block: "nearest" }); // on a phone it is below the button
    session.say(`${verdict.title}: ${score.bitsPerDim.toFixed(3)} bits per dimension.`);
  }
}
