/** The shell: header, pages, messages, drops. */

import { messageOf } from "../core/errors";
import { readPngRecipe } from "../core/png";
import type { Backend, BrowserBackend } from "../engine/api";
import { fill, h, icon } from "./dom";
import { ICONS } from "./icons";
import { CreatePage } from "./pages/create";
import { DevicePage } from "./pages/device";
import { GalleryPage } from "./pages/gallery";
import { InsidePage } from "./pages/inside";
import { MorphPage } from "./pages/morph";
import { PrivacyPage } from "./pages/privacy";
import { button, chooseFile } from "./parts";
import { decodeFile } from "./pixels";
import { Session } from "./session";

const PAGES = [
  ["create", "Create"], ["inside", "Inside"], ["morph", "Morph"], ["gallery", "Gallery"], ["device", "Device"],
] as const;
const MESSAGE_TIME = 4000; // ms; errors stay

export class App {
  private readonly message = h("div", { class: "message", role: "status", "aria-live": "polite" });
  private readonly alert = h("div", { class: "message error", role: "alert" });
  private readonly main = h("main", { id: "main", tabindex: -1 });
  private readonly pages;
  private timer = 0;

  constructor(root: HTMLElement, browser: BrowserBackend, laptop: Backend | null) {
    const session = new Session(browser, laptop, (text, bad) => this.say(text, bad));
    const gallery = new GalleryPage(session, (recipe, pixels) => {
      this.go("create");
      void this.pages.create.makeAgain(recipe, pixels);
    }, (where, pixels) => {
      this.go(where);
      if (where === "inside") this.pages.inside.show(pixels);
      else this.pages.morph.take(pixels);
    });
    this.pages = {
      create: new CreatePage(session, () => void gallery.refresh()), inside: new InsidePage(session),
      morph: new MorphPage(session), gallery, device: new DevicePage(session), privacy: new PrivacyPage(),
    };
    fill(root, h("a", { class: "skip", href: "#main", onclick: (e: Event) => this.skip(e) }, "Skip to the content"),
      this.header(), this.main, h("div", { class: "messages" }, this.message, this.alert));
    window.addEventListener("hashchange", () => this.show());
    this.acceptDrops();
    this.show();
    void gallery.refresh();
    void session.use(session.place);
  }

  /** Says something to eyes and ears. */
  say(text: string, isError = false): void {
    window.clearTimeout(this.timer);
    fill(this.message, isError ? null : text);
    fill(this.alert, isError ? h("span", {}, text) : null,
      isError && button("Close", () => fill(this.alert), undefined, "quiet"));
    if (!isError) this.timer = window.setTimeout(() => fill(this.message), MESSAGE_TIME);
  }

  /** Offers the new version that waits; nothing is replaced under a running task. */
  offerUpdate(apply: () => void): void {
    fill(this.message, "A new version is ready.", button("Reload", apply, undefined, "quiet"));
  }

  private header(): HTMLElement {
    const links = PAGES.map(([id, name]) => h("a", { href: `#${id}` }, icon(ICONS[id]), h("span", {}, name)));
    return h("header", {},
      h("a", { class: "brand", href: "#create", "aria-label": "flowship, start page" },
        h("img", { src: "icons/icon.svg", alt: "", width: 28, height: 28 }), "flowship"),
      h("nav", { "aria-label": "Pages" }, ...links),
      h("div", { class: "tools" },
        h("button", { type: "button", class: "quiet", onclick: () => this.open() }, icon(ICONS.open), "Open a file"),
        h("a", { class: "private", href: "#privacy" }, icon(ICONS.shield), h("span", {}, "Private"))));
  }

  private skip(event: Event): void {
    event.preventDefault();
    this.main.focus();
  }

  private go(page: string): void {
    location.hash = page;
    this.show();
  }

  private show(): void {
    const id = location.hash.slice(1);
    const name = Object.hasOwn(this.pages, id) ? (id as keyof typeof this.pages) : "create";
    const page = this.pages[name];
    for (const link of document.querySelectorAll("nav a, .private")) {
      if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (page.element.parentNode === this.main) return;
    if (this.main.hasChildNodes()) {
      scrollTo(0, 0);
      this.main.focus({ preventScroll: true });
    }
    fill(this.main, page.element);
    document.title = `${name[0]!.toUpperCase()}${name.slice(1)} · flowship`;
    if (page === this.pages.privacy) this.pages.privacy.refresh();
  }

  private acceptDrops(): void {
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) void this.take(file);
    });
  }

  private async open(): Promise<void> {
    const file = await chooseFile("image/*,.zip,.flowship");
    if (file) await this.take(file);
  }

  /** A bundle goes to Device, a picture with a recipe to Create, other pictures to Inside. */
  private async take(file: File): Promise<void> {
    try {
      if (/\.(zip|flowship)$/i.test(file.name)) {
        this.go("device");
        await this.pages.device.importFile(file);
        return;
      }
      const pixels = await decodeFile(file, file.name);
      const recipe = file.type === "image/png"
        ? await readPngRecipe(new Uint8Array(await file.arrayBuffer())) : null;
      if (recipe) {
        this.go("create");
        this.pages.create.showRecipe(recipe, pixels);
        return;
      }
      this.go("inside");
      this.pages.inside.show(pixels);
    } catch (error) {
      this.say(messageOf(error), true);
    }
  }
}
