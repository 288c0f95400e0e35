/** One model of the list: what it is, its precisions where there are several, and what can be done with it. */

import { Chips } from "../chips";
import { fill, h } from "../dom";
import { keepFocus } from "../focus";
import { ICONS } from "../icons";
import { button } from "../parts";
import type { Offer, Session } from "../session";
import { formatBytes } from "../words";

export class ModelRow {
  private readonly state = h("span", { class: "badge" }, "open");
  private readonly use: HTMLButtonElement;
  private readonly chips: Chips<string>;
  private readonly text = h("div", {});
  readonly element = h("li", { tabindex: -1 });

  constructor(private readonly session: Session, private readonly offer: Offer, remove: () => void) {
    const { place, model } = offer;
    this.use = button("Use", () => session.use({ place, id: model.id }), undefined, "quiet");
    this.chips = new Chips<string>("Precision", (precision) => session.choose({ place, id: model.sha256, precision }));
    fill(this.element, this.text, h("span", { class: "row" }, this.use, this.state),
      model.removable && button("Remove", remove, ICONS.trash, "quiet"),
      model.precisions.length > 1 && this.chips.element);
  }

  /** @param named Whether the list has models of several places, so that each says its own. */
  show(named: boolean): void {
    const { session, offer: { place, model } } = this;
    const open = session.place === place && session.model?.sha256 === model.sha256;
    const wanted = session.choice.place === place && session.choice.id === model.sha256;
    const facts = [formatBytes(model.bytes), model.sha256.slice(0, 12)];
    if (named) facts.push(place === "laptop" ? "served by the laptop" : "in this browser");
    fill(this.text, h("strong", {}, model.name),
      h("small", {}, model.problem ? `Cannot be opened: ${model.problem}` : facts.join(" · ")));
    this.element.className = open ? "open" : "";
    keepFocus(this.element, () => {
      this.state.hidden = !open;
      this.use.hidden = open || model.problem !== undefined;
    }, this.element);
    const options = model.precisions.map((precision) => [precision, precision] as const);
    this.chips.show(options, wanted ? session.choice.precision : undefined);
  }
}
