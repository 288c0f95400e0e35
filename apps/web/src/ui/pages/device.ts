/** Device: where it computes, which models there are, and how fast it is. */

import { EngineSection } from "../device/engine_section";
import { ModelsSection } from "../device/models_section";
import { SpeedSection } from "../device/speed_section";
import { h } from "../dom";
import type { Session } from "../session";

export class DevicePage {
  private readonly engine: EngineSection;
  private readonly models: ModelsSection;
  readonly element: HTMLElement;

  constructor(session: Session) {
    this.engine = new EngineSection(session);
    this.models = new ModelsSection(session);
    this.element = h("div", { class: "stack" }, this.engine.element, this.models.element, new SpeedSection(session).element);
  }

  /** The page is shown. */
  shown(): void {
    this.engine.shown();
  }

  /** Checks a zipped bundle, keeps it and opens it. */
  async importFile(file: File): Promise<void> {
    await this.models.importFile(file);
  }
}
