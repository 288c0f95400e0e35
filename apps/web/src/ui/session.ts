/** What all pages share: the engine, the open model, and the one task that may run. */

import { FlowshipError, messageOf, usageError } from "../core/errors";
import type { Backend, BrowserBackend, ModelInfo, OpenOptions, Progress } from "../engine/api";
import { chosenThreads, rememberThreads, type Threads } from "./threads";

export type Task<T> = (onProgress: (event: Progress) => void, signal: AbortSignal) => Promise<T>;
/** Where it computes: this browser's processor or graphics card, or the laptop behind the page. */
export type Place = "browser" | "gpu" | "laptop";
type Listener = () => void;

export class Session {
  model: ModelInfo | null = null;
  place: Place;
  /** Of the browser's engine. */
  threads: Threads = chosenThreads();
  private current: Backend;
  private running = false;
  /** Whether the model was opened with other threads than those chosen since. */
  private stale = false;
  private readonly listeners = new Set<Listener>();

  constructor(
    readonly browser: BrowserBackend,
    readonly laptop: Backend | null,
    private readonly announce: (text: string, isError?: boolean) => void,
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

  /** Calls back when the model, the engine or busy changes. */
  watch(listener: Listener): void {
    this.listeners.add(listener);
    listener();
  }

  async use(place: Place, modelId?: string): Promise<void> {
    await this.exclusive(async () => {
      const next = place === "laptop" ? this.laptop : this.browser;
      if (!next) throw usageError("this page is not served by flowship serve");
      const models = await next.listModels();
      const chosen = models.find(({ id, sha256 }) => id === modelId || sha256 === modelId) ?? models[0];
      if (!chosen) throw usageError("the engine has no model");
      if (this.current !== next) await this.current.close();
      this.current = next;
      this.place = place;
      this.model = null;
      this.model = await next.open(chosen.id, this.options(place));
    });
  }

  /** Remembers the choice, and opens the browser's model again, after what is running now: arrow keys
   * go through the choices on their way. */
  useThreads(threads: Threads): void {
    this.threads = threads;
    rememberThreads(threads);
    this.stale = true;
    this.refresh();
  }

  private refresh(): void {
    if (this.running || !this.stale) return;
    this.stale = false;
    if (this.place === "browser") void this.use("browser", this.model?.id);
  }

  /** Runs one task at a time. Errors become messages; undefined means it failed or was cancelled. */
  async exclusive<T>(task: () => Promise<T>): Promise<T | undefined> {
    if (this.running) {
      this.announce("Something is still running: wait, or cancel it.", true);
      return undefined;
    }
    this.running = true;
    this.tell();
    try {
      return await task();
    } catch (error) {
      if (error instanceof Error && error.name === "AbortError") this.announce("Cancelled.");
      else this.announce(messageOf(error), true);
      if (!(error instanceof FlowshipError)) console.warn(error);
      return undefined;
    } finally {
      this.running = false;
      this.tell();
      this.refresh();
    }
  }

  say(text: string, isError = false): void {
    this.announce(text, isError);
  }

  private options(place: Place): OpenOptions {
    if (place === "gpu") return { device: "webgpu" };
    return place === "browser" && this.threads !== null ? { threads: this.threads } : {};
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}
