/** Look inside: likelihood, latent and reconstruction of a picture. */

import { changesOf } from "../../core/prepare";
import type { ModelInfo, Pixels, Score } from "../../engine/api";
import { Chips } from "../chips";
import { describeDifference } from "../differences";
import { fill, h } from "../dom";
import { ICONS } from "../icons";
import { button, enable, pictureOf, section } from "../parts";
import { PicturePicker } from "../picker";
import { compare, latentPicture } from "../pixels";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";
import { explainBits } from "../words";

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
      fill(this.result); // what is there is another model's
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
    if (!picture) return session.say("Choose a picture first.", "input");
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
    const latent = latentPicture(z, model.width, model.height, model.channels, model.patchSize);
    const figure = (pixels: Pixels, text: string) =>
      h("figure", {}, pictureOf(pixels, text), h("figcaption", {}, text));
    const card = likelihoodCard(score, picture, model);
    fill(this.result, card,
      h("div", { class: "trio" }, figure(input, "What the model sees"), figure(latent, "Its latent"),
        figure(back, "Back from the latent")),
      h("p", { class: "verdict" }, describeDifference(compare(input, back))));
    card.scrollIntoView({ block: "nearest" }); // on a phone it is below the button
    session.say(`${score.bitsPerDim.toFixed(3)} bits per dimension.`);
  }
}

/** The number with its convention, what was done to the picture before, and what the number means. */
function likelihoodCard(score: Score, picture: Pixels, model: ModelInfo): HTMLElement {
  return section("Likelihood",
    h("p", { class: "number" }, h("strong", {}, score.bitsPerDim.toFixed(3)), " bits/dim"),
    h("p", { class: "note" }, score.convention),
    h("p", { class: "seen" }, describeSeen(picture, model)),
    ...explainBits(model.trainingNoise).map((words) => h("p", {}, words)));
}

/** Whose likelihood it is: the picture's as it came, or of what was made of it. */
function describeSeen(picture: Pixels, { width, height, channels }: ModelInfo): string {
  const changes = changesOf(picture, { imgSize: width, inChannels: channels });
  if (changes.length === 0) return "The picture as it is: nothing was changed about it.";
  const last = changes.pop();
  const words = changes.length > 0 ? `${changes.join(", ")} and ${last}` : last;
  return `The number is of what the model sees, ${width} × ${height} pixels: the picture of ${picture.width} × `
    + `${picture.height} was ${words}.`;
}
