/** Chooses a picture: open a file, draw one, or take one from the gallery. */

import type { Pixels } from "../engine/api";
import { messageOf } from "../core/errors";
import { fill, h } from "./dom";
import { keepFocus } from "./focus";
import * as gallery from "./gallery_store";
import { ICONS } from "./icons";
import { button, chooseFile, pictureOf } from "./parts";
import { decodeFile, paint } from "./pixels";
import type { Session } from "./session";

const PAD = 280; // pixels of the drawing pad; the model sees it made smaller

export class PicturePicker {
  chosen: Pixels | null = null;
  private readonly canvas = h("canvas", { class: "picture", role: "img" });
  private readonly extra = h("div", { class: "extra" });
  private readonly open = button("Open", () => this.fromFile(), ICONS.open, "quiet");
  readonly element: HTMLElement;

  constructor(private readonly session: Session, private readonly name: string, private readonly onChoose: () => void) {
    this.canvas.setAttribute("aria-label", `${name}: none yet`);
    this.element = h("div", { class: "picker" }, h("h3", {}, name), this.canvas,
      h("div", { class: "row wrap" },
        this.open,
        button("Draw", () => this.draw(), ICONS.pen, "quiet"),
        button("Gallery", () => this.fromGallery(), ICONS.gallery, "quiet")),
      this.extra);
  }

  set(pixels: Pixels): void {
    this.chosen = pixels;
    this.session.cured("input");
    paint(this.canvas, pixels);
    this.canvas.setAttribute("aria-label", `${this.name}: ${pixels.width} by ${pixels.height} pixels`);
    keepFocus(this.extra, () => fill(this.extra), this.open);
    this.onChoose();
  }

  private async fromFile(): Promise<void> {
    const file = await chooseFile("image/*");
    if (!file) return;
    try {
      this.set(await decodeFile(file, file.name));
    } catch (error) {
      this.session.say(messageOf(error), "input");
    }
  }

  private async fromGallery(): Promise<void> {
    const pictures = await gallery.kept();
    fill(this.extra, pictures.length === 0 ? "The gallery is empty: make a picture first."
      : h("div", { class: "grid small" }, ...pictures.map((one, i) =>
        h("button", { type: "button", class: "thumb", "aria-label": `Picture ${i + 1}`, onclick: () => this.set(one.pixels) },
          pictureOf(one.pixels, `Picture ${i + 1}`)))));
  }

  private draw(): void {
    const pad = drawingPad();
    const use = () => {
      const { data } = pad.getContext("2d")!.getImageData(0, 0, PAD, PAD);
      this.set({ width: PAD, height: PAD, channels: 4, data });
    };
    fill(this.extra, pad, h("div", { class: "row" },
      button("Use the drawing", use, undefined, "primary"), button("Clear", () => clear(pad), undefined, "quiet")));
  }
}

/** White strokes on black, as the pictures of the embedded model are; mouse, pen and fingers. */
function drawingPad(): HTMLCanvasElement {
  const pad = h("canvas", {
    class: "pad", width: PAD, height: PAD, role: "img",
    "aria-label": "Drawing pad: draw with a mouse, pen or finger",
  });
  clear(pad);
  const context = pad.getContext("2d")!;
  Object.assign(context, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
  const at = (event: PointerEvent): [number, number] => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * PAD, ((event.clientY - box.top) / box.height) * PAD];
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(...at(event));
    context.lineTo(...at(event));
    context.stroke();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    context.lineTo(...at(event));
    context.stroke();
  });
  return pad;
}

function clear(pad: HTMLCanvasElement): void {
  const context = pad.getContext("2d")!;
  context.fillStyle = "#000";
  context.fillRect(0, 0, PAD, PAD);
}
