/** Create: the form, and the picture as it grows. */

import { modelFor, reasonAgainst, requestsOf } from "../../core/again";
import { usageError } from "../../core/errors";
import type { Recipe } from "../../core/recipe";
import type { GenerateRequest, Picture, Pixels, Progress } from "../../engine/api";
import { AgainCard } from "../again_card";
import { classNameOf, titleOf } from "../class_names";
import { CreateForm } from "../create_form";
import { h } from "../dom";
import * as gallery from "../gallery_store";
import { GrowingPicture } from "../growing_picture";
import { dumpRecipe, section } from "../parts";
import { ProgressBar } from "../progress_bar";
import type { Session } from "../session";

export class CreatePage {
  private readonly picture: GrowingPicture;
  private readonly bar: ProgressBar;
  private readonly again = new AgainCard();
  readonly element: HTMLElement;

  constructor(private readonly session: Session, private readonly onKept: () => void) {
    this.bar = new ProgressBar(session);
    this.picture = new GrowingPicture(session);
    const form = new CreateForm(session, (wanted) => {
      this.again.begin(null);
      void this.run(wanted);
    });
    this.element = h("div", { class: "two" }, section("Create", form.element),
      h("div", { class: "stage" }, ...this.picture.elements(this.bar.element), this.again.element));
  }

  /** Makes the pictures of a recipe again, and compares them with what was dropped. */
  async makeAgain(recipe: Recipe, dropped: Pixels | null): Promise<void> {
    if (this.session.busy) return this.session.say("Something is still running: wait, or cancel it.", "busy");
    const comparison = this.again.begin(dropped);
    const made = await this.run(requestsOf(recipe), (signal) => this.openFor(recipe, signal));
    if (!made) return comparison?.fail();
    const words = comparison?.end(recipe, made);
    if (words) this.session.say(words);
  }

  /** Shows the recipe of a dropped picture and offers to make it again. */
  showRecipe(recipe: Recipe, dropped: Pixels): void {
    this.again.showRecipe(recipe, this.session.model, () => void this.makeAgain(recipe, dropped));
  }

  /** Opens the bundle and the precision that a recipe names, where they are not open. */
  private async openFor(recipe: Recipe, signal: AbortSignal): Promise<void> {
    const { session } = this;
    const against = reasonAgainst(recipe);
    if (against) throw usageError(against);
    const { bundleSha256: id, precision } = recipe;
    const { offers, problem } = await session.offers();
    if (problem) throw problem;
    const found = modelFor(recipe, offers.map(({ model }) => model));
    const { place } = offers.find(({ model }) => model === found)!;
    const { model } = session;
    if (place === session.place && model?.sha256 === id && model.engine.precision === precision) return;
    await session.open({ place, id, precision }, signal);
  }

  /** One picture after another; `prepare` comes before them, in the same task. */
  private async run(
    wanted: readonly GenerateRequest[], prepare?: (signal: AbortSignal) => Promise<void>,
  ): Promise<Picture[] | undefined> {
    if (!this.session.busy) this.picture.begin(wanted.length);
    const many = wanted.length > 1;
    const show = (event: Progress) => this.picture.showProgress(event);
    const made = await this.bar.run(many ? `${wanted.length} pictures` : "Picture", async (onProgress, signal) => {
      await prepare?.(signal);
      const pictures: Picture[] = [];
      for (const [at, request] of wanted.entries()) {
        const whole = (event: Progress) => onProgress(event.kind !== "progress" ? event : {
          ...event, fraction: (at + event.fraction) / wanted.length,
          secondsLeft: event.secondsLeft + (wanted.length - at - 1) * (event.seconds + event.secondsLeft),
        });
        const picture = await this.session.backend.generate(request, whole, signal);
        pictures.push(picture);
        await this.keep(picture, at);
      }
      return pictures;
    }, show);
    this.picture.end();
    return made;
  }

  private async keep(picture: Picture, index: number): Promise<void> {
    const { pixels, recipe } = picture;
    const className = classNameOf(recipe, this.session.model);
    const title = titleOf(recipe, className);
    this.picture.show(picture, index, title);
    this.session.say(`${title} is ready.`);
    await gallery.keep(pixels, dumpRecipe(recipe), className);
    this.onKept();
  }
}
