/** The shell: header, pages, messages, drops. */

import { LaptopBackend } from "../backends/laptop";
import { isServed, ServerClient } from "../backends/server_client";
import { keptToken, takeToken } from "../backends/token";
import { messageOf } from "../core/errors";
import { readPngRecipe } from "../core/png";
import type { Backend, BrowserBackend } from "../engine/api";
import { fill, h, icon } from "./dom";
import { focusFirst, keepFocus } from "./focus";
import { ICONS } from "./icons";
import { CreatePage } from "./pages/create";
import { DevicePage } from "./pages/device";
import { GalleryPage } from "./pages/gallery";
import { InsidePage } from "./pages/inside";
import { MorphPage } from "./pages/morph";
import { PrivacyPage } from "./pages/privacy";
import { button, chooseFile } from "./parts";
import { decodeFile } from "./pixels";
import { noteSent } from "./requests";
import { type Cause, Session } from "./session";

const PAGES = [
  ["create", "Create"], ["inside", "Inside"], ["morph", "Morph"], ["gallery", "Gallery"], ["device", "Device"],
] as const;
const MESSAGE_TIME = 4000; // ms; errors stay

/** The engine behind `flowship serve` where this page comes from one and has its token. */
export async function connectLaptop(): Promise<Backend | null> {
  const token = keptToken();
  // Without a token nothing can be computed: no need to ask, and static hosts see no stray request.
  return token && (await isServed()) ? new LaptopBackend(new ServerClient(token, noteSent)) : null;
}

export class App {
  private readonly message = h("div", { class: "message", role: "status", "aria-live": "polite" });
  /** Of its own: messages come and go, this stays until it is taken. */
  private readonly update = h("div", { class: "message", role: "status" });
  private readonly alert = h("div", { class: "message error", role: "alert" });
  private readonly main = h("main", { id: "main", tabindex: -1 });
  private readonly pages;
  private readonly session: Session;
  private timer = 0;
  /** Of the error that is shown. */
  private cause: Cause | null = null;

  constructor(root: HTMLElement, browser: BrowserBackend, laptop: Backend | null) {
    const session = (this.session = new Session(browser, laptop, {
      say: (text, cause) => this.say(text, cause), cured: (...causes) => this.cured(...causes),
    }));
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
      morph: new MorphPage(session), gallery, device: new DevicePage(session), privacy: new PrivacyPage(session),
    };
    fill(root, h("a", { class: "skip", href: "#main", onclick: (e: Event) => this.skip(e) }, "Skip to the content"),
      this.header(), this.main, h("div", { class: "messages" }, this.message, this.update, this.alert));
    window.addEventListener("hashchange", ({ oldURL }) => {
      if (takeToken(new URL(oldURL).hash)) void this.connect();
      else this.show();
    });
    this.acceptDrops();
    document.addEventListener("keydown", (event) => scrollByKey(event, this.main));
    this.show();
    void session.start();
  }

  /** Says something to eyes and ears; an error, which has a cause, until that is cured or it is closed. */
  say(text: string, cause: Cause | null = null): void {
    window.clearTimeout(this.timer);
    const before = document.activeElement as HTMLElement | null;
    const close = () => {
      this.cured(cause);
      focusFirst(before);
    };
    fill(this.message, cause === null && toast(text));
    if (cause === null) {
      this.timer = window.setTimeout(() => fill(this.message), MESSAGE_TIME);
    } else {
      this.cause = cause;
      fill(this.alert, toast(text, button("Close", close, undefined, "quiet")));
    }
    // It took its room from the page: what is being used stays in view.
    if (before && this.main.contains(before)) before.scrollIntoView({ block: "nearest" });
  }

  /** Takes an error away whose cause is one of these. */
  private cured(...causes: (Cause | null)[]): void {
    if (this.cause === null || !causes.includes(this.cause)) return;
    this.cause = null;
    keepFocus(this.alert, () => fill(this.alert));
  }

  /** Offers the new version that waits; nothing is replaced under a running task. */
  offerUpdate(apply: () => void): void {
    fill(this.update, toast("A new version is ready.", button("Reload", apply, undefined, "quiet")));
  }

  /** The address with a token was opened in this tab, which was open already. */
  private async connect(): Promise<void> {
    const laptop = await connectLaptop();
    if (!laptop) return this.say("flowship serve does not answer at this address.", "server");
    this.cured("server");
    this.session.connect(laptop);
    this.say("The laptop's engine is connected.");
  }

  private header(): HTMLElement {
    const links = PAGES.map(([id, name]) => h("a", { href: `#${id}` }, icon(ICONS[id]), h("span", {}, name)));
    return h("header", {},
      h("h1", {}, h("a", { class: "brand", href: "#create", "aria-label": "flowship, start page" },
        h("img", { src: "icons/icon.svg", alt: "", width: 28, height: 28 }), "flowship")),
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
      this.main.scrollTop = 0;
      this.main.focus({ preventScroll: true });
    }
    fill(this.main, page.element);
    this.cured("input"); // it was of the page before
    document.title = `${name[0]!.toUpperCase()}${name.slice(1)} · flowship`;
    if (page === this.pages.privacy) this.pages.privacy.refresh();
    if (page === this.pages.device) this.pages.device.shown();
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
    this.cured("input");
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
      this.say(messageOf(error), "input");
    }
  }
}

/** The pages scroll, not the document: keys that nobody else takes scroll what is shown. */
function scrollByKey(event: KeyboardEvent, area: HTMLElement): void {
  const { activeElement: active } = document;
  if (event.ctrlKey || event.altKey || event.metaKey || area.contains(active) || active instanceof HTMLButtonElement) return;
  const page = 0.9 * area.clientHeight;
  const ways: Record<string, number> = {
    ArrowDown: 40, ArrowUp: -40, PageDown: page, PageUp: -page, " ": event.shiftKey ? -page : page,
    End: area.scrollHeight, Home: -area.scrollHeight,
  };
  const way = ways[event.key];
  if (way === undefined) return;
  event.preventDefault();
  area.scrollBy({ top: way });
}

/** A new element for each message: one that changed its size would count as something that moved. */
function toast(text: string, action?: HTMLElement): HTMLElement {
  return h("div", { class: "toast" }, h("span", {}, text), action);
}
