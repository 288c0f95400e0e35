/** What all pages share: the engine, the open model, and the one task that may run. */

import { dropToken } from "../backends/token";
import { FlowshipError, messageOf, usageError } from "../core/errors";
import type { Backend, BrowserBackend, ModelInfo, ModelSummary, OpenOptions, Progress } from "../engine/api";
import { lastModel, rememberModel } from "./last_model";
import { chosenThreads, rememberThreads, type Threads } from "./threads";

export type Task<T> = (onProgress: (event: Progress) => void, signal: AbortSignal) => Promise<T>;
/** Where it computes: this browser's processor or graphics card, or the laptop behind the page. */
export type Place = "browser" | "gpu" | "laptop";
type Listener = () => void;
/** What an error is about; it goes away with its cause: "input" where something else is given, "task" where
 * the next begins, "busy" where the running one ends, "list" where the models can be listed, "server" where
 * flowship serve is connected again, "other" where it is closed. */
export type Cause = "input" | "task" | "busy" | "list" | "server" | "other";

/** Where messages are shown. */
export interface Messages {
  say(text: string, cause?: Cause): void;
  cured(...causes: Cause[]): void;
}

/** What to open; a model is named by its id or sha256, and left out it is the first. */
export interface Choice {
  readonly place: Place;
  readonly id?: string | undefined;
  readonly precision?: string | undefined;
}

/** A model, and where it can be opened. */
export interface Offer {
  readonly place: Place;
  readonly model: ModelSummary;
}

export class Session {
  model: ModelInfo | null = null;
  place: Place;
  /** Of the browser's engine. */
  threads: Threads = chosenThreads();
  private current: Backend;
  private running = false;
  /** What was chosen while something ran, to be opened after it. */
  private wanted: Choice | null = null;
  private opening: Choice | null = null;
  private readonly listeners = new Set<Listener>();

  constructor(
    readonly browser: BrowserBackend,
    public laptop: Backend | null,
    private readonly messages: Messages,
  ) {
    this.current = laptop ?? browser;
    this.place = this.current.kind;
  }

  get backend(): Backend {
    return this.current;
  }

  get busy(): boolean {
    return this.running;
  }

  get opened(): ModelInfo {
    if (!this.model) throw usageError("no model is open yet: wait a moment, or open one under Device");
    return this.model;
  }

  /** What was chosen last, whether or not it is open already. */
  get choice(): Choice {
    return this.wanted ?? this.opening ?? this.openChoice;
  }

  /** Calls back when the model, the engine or busy changes. */
  watch(listener: Listener): void {
    this.listeners.add(listener);
    listener();
  }

  /** Opens what this browser had open last. */
  async start(): Promise<void> {
    const last = this.place === "laptop" ? null : lastModel();
    if (last && (await this.use({ place: this.place, ...last }))) return;
    await this.use({ place: this.place });
  }

  /** As a task of its own; false where it failed, which was announced. */
  async use(choice: Choice): Promise<boolean> {
    return (await this.exclusive(() => this.open(choice).then(() => true))) ?? false;
  }

  /** Opens it after what is running now: arrow keys go through the choices on their way. */
  choose(choice: Choice): void {
    this.wanted = choice;
    this.tell();
    this.settle();
  }

  /** Remembers the choice, and opens the browser's model with it. */
  useThreads(threads: Threads): void {
    this.threads = threads;
    rememberThreads(threads);
    if (this.choice.place === "browser") this.choose(this.choice);
  }

  /** A laptop's engine was found: it is used from now on. */
  connect(laptop: Backend): void {
    this.laptop = laptop;
    this.choose({ ...this.choice, place: "laptop" });
  }

  /** Opens a model; for tasks that are running already. What was open before is opened again where that
   * fails. */
  async open(choice: Choice, signal?: AbortSignal): Promise<void> {
    this.opening = choice;
    try {
      await this.replace(choice, signal);
    } finally {
      this.opening = null;
      this.tell();
    }
  }

  /** The models of the engine in use; with the laptop's engine also those kept in this browser, which it
   * does not know. `problem` is why the engine did not answer. */
  async offers(): Promise<{ readonly offers: Offer[]; readonly problem?: unknown }> {
    const { place, current } = this;
    const offered = (models: ModelSummary[], where: Place) => models.map((model) => ({ place: where, model }));
    const kept = place === "laptop" ? await this.browser.store.list().catch(() => []) : [];
    const own = offered(kept, "browser");
    try {
      return { offers: [...offered(await current.listModels(), place), ...own] };
    } catch (problem) {
      return { offers: own, problem };
    }
  }

  /** Runs one task at a time. Errors become messages; undefined means it failed or was cancelled. */
  async exclusive<T>(task: () => Promise<T>): Promise<T | undefined> {
    if (this.running) {
      this.say("Something is still running: wait, or cancel it.", "busy");
      return undefined;
    }
    this.running = true;
    this.cured("input", "task");
    this.tell();
    try {
      return await task();
    } catch (error) {
      this.sayError(error);
      return undefined;
    } finally {
      this.running = false;
      this.cured("busy");
      this.tell();
      this.settle();
    }
  }

  /** Says something; an error where it has a cause. */
  say(text: string, cause?: Cause): void {
    this.messages.say(text, cause);
  }

  /** Takes the error away that one of these causes has. */
  cured(...causes: Cause[]): void {
    this.messages.cured(...causes);
  }

  private get openChoice(): Choice {
    return { place: this.place, id: this.model?.sha256, precision: this.model?.engine.precision };
  }

  private async replace({ place, id, precision }: Choice, signal?: AbortSignal): Promise<void> {
    const next = place === "laptop" ? this.laptop : this.browser;
    if (!next) throw usageError("this page is not served by flowship serve");
    const models = await next.listModels();
    const chosen = models.find((model) => model.id === id || model.sha256 === id) ?? models.find(({ problem }) => !problem);
    if (!chosen) throw usageError("the engine has no model");
    const before = this.model && this.openChoice;
    if (this.current !== next) await this.current.close();
    this.current = next;
    this.place = place;
    this.model = null;
    try {
      this.model = await next.open(chosen.id, this.options(place, chosen, precision), signal);
    } catch (error) {
      if (before && !isSame(before, { place, id: chosen.id, precision })) await this.replace(before).catch(() => undefined);
      throw error;
    }
    if (place !== "laptop") rememberModel(this.model);
  }

  private settle(): void {
    if (this.running || !this.wanted) return;
    const wanted = (this.opening = this.wanted);
    this.wanted = null;
    void this.use(wanted);
  }

  /** Says what a task failed with; every task of exclusive() does. */
  sayError(error: unknown, cause: Cause = causeOf(error)): void {
    if (error instanceof Error && error.name === "AbortError") this.say("Cancelled.");
    else if (error instanceof FlowshipError && error.kind === "token") this.loseLaptop();
    else this.say(messageOf(error), cause);
    if (!(error instanceof FlowshipError)) console.warn(error);
  }

  /** The server was started again: its old token opens nothing any more. */
  private loseLaptop(): void {
    if (!this.laptop) return; // said already: several requests may have been refused
    dropToken();
    this.laptop = null;
    if (this.choice.place === "laptop") this.choose({ ...this.choice, place: "browser" });
    this.say("flowship serve was started again and has a new token: open the address that it printed, in this "
      + "tab too. Until then this browser computes.", "server");
  }

  private options(place: Place, model: ModelSummary, precision: string | undefined): OpenOptions {
    return {
      // Another engine may have the same bundle in other precisions.
      ...(precision !== undefined && model.precisions.includes(precision) ? { precision } : {}),
      ...(place === "gpu" ? { device: "webgpu" as const } : {}),
      ...(place === "browser" && this.threads !== null ? { threads: this.threads } : {}),
    };
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Wrong input is one, a damaged bundle too: they are of the page where they were given. */
function causeOf(error: unknown): Cause {
  return error instanceof FlowshipError && (error.kind === "usage" || error.kind === "bundle") ? "input" : "task";
}

function isSame(a: Choice, b: Choice): boolean {
  return a.place === b.place && a.id === b.id && a.precision === b.precision;
}
