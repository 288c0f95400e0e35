/** The browser's own engine, in a worker. */

import { abortError, FlowshipError } from "../core/errors";
import type {
  BenchmarkRequest, BrowserBackend, DecodeRequest, GenerateRequest, InterpolateRequest, ModelStore,
  OnProgress, OpenOptions, Picture, Pixels, ScoreOptions,
} from "./api";
import type { Args, EventOf, FromWorker, Method, Result, ToWorker } from "./protocol";

/** Milliseconds in which a cancelled call must have ended. The worker looks at its messages between two
 * engine calls; one that takes longer is a large model's, or one that never comes back. */
const CANCEL_TIME = 4000;

interface Pending {
  readonly message: ToWorker;
  readonly tell: (event: unknown) => void;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Starts the worker; the model comes with open(). */
export function openBrowserBackend(): BrowserBackend {
  const start = () => new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "flowship" });
  return new WorkerBackend(start, document.baseURI);
}

class WorkerBackend implements BrowserBackend {
  readonly kind = "browser";
  private readonly pending = new Map<number, Pending>();
  private lastId = 0;
  private worker: Worker | null = null;
  private fresh = true;
  /** What a new worker has to open before it can do what the one before it did. */
  private opened: Args<"open"> | null = null;

  constructor(
    private readonly startWorker: () => Worker,
    private readonly base: string,
  ) {}

  readonly store: ModelStore = {
    list: () => this.call("listStored", []),
    importZip: (file, onProgress, signal) => this.call("importZip", [file], onProgress, signal),
    remove: (id) => this.call("removeStored", [id]),
  };

  listModels() {
    return this.call("listModels", []);
  }

  async open(id: string, options: OpenOptions = {}, signal?: AbortSignal) {
    // A worker for each model: the first session of ONNX Runtime Web fixes the number of threads, and
    // WebAssembly's memory never shrinks.
    if (this.worker && !this.fresh) {
      await this.close().catch(() => undefined); // what was asked before is answered before
      this.end();
      for (const { message } of this.pending.values()) this.send(message); // asked meanwhile
    }
    this.fresh = false;
    const info = await this.call("open", [id, options], undefined, signal);
    this.opened = [id, options];
    return info;
  }

  generate(request: GenerateRequest, onProgress?: OnProgress, signal?: AbortSignal) {
    return this.call("generate", [request], onProgress, signal);
  }

  decode(request: DecodeRequest, onProgress?: OnProgress, signal?: AbortSignal) {
    return this.call("decode", [request], onProgress, signal);
  }

  encode(image: Pixels, label: number | null, signal?: AbortSignal) {
    return this.call("encode", [image, label], undefined, signal);
  }

  score(image: Pixels, options: ScoreOptions = {}, signal?: AbortSignal) {
    return this.call("score", [image, options], undefined, signal);
  }

  interpolate(
    request: InterpolateRequest, onPicture?: (index: number, picture: Picture) => void, signal?: AbortSignal,
  ) {
    const tell = onPicture && (({ index, picture }: { index: number; picture: Picture }) => onPicture(index, picture));
    return this.call("interpolate", [request], tell, signal);
  }

  benchmark(request: BenchmarkRequest, onProgress?: OnProgress, signal?: AbortSignal) {
    return this.call("benchmark", [request], onProgress, signal);
  }

  calibrate(onProgress?: OnProgress, signal?: AbortSignal) {
    return this.call("calibrate", [], onProgress, signal);
  }

  close() {
    this.opened = null;
    return this.call("close", []);
  }

  private call<M extends Method>(
    method: M, args: Args<M>, tell?: (event: EventOf<M>) => void, signal?: AbortSignal,
  ): Promise<Result<M>> {
    if (signal?.aborted) return Promise.reject(abortError());
    const id = ++this.lastId;
    const message: ToWorker = { kind: "call", id, method, args };
    let timer: ReturnType<typeof setTimeout> | undefined;
    const cancel = () => {
      this.send({ kind: "cancel", id });
      timer = setTimeout(() => this.abandon(id), CANCEL_TIME);
    };
    const answer = new Promise<Result<M>>((resolve, reject) => {
      this.pending.set(id, {
        message,
        tell: (event) => tell?.(event as EventOf<M>),
        resolve: (result) => resolve(result as Result<M>),
        reject,
      });
    });
    signal?.addEventListener("abort", cancel);
    this.send(message);
    return answer.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
    });
  }

  private start(): Worker {
    const worker = this.startWorker();
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.receive(data);
    worker.onerror = (event) => this.fail(event.message || "the worker could not be started");
    worker.postMessage({ kind: "start", base: this.base } satisfies ToWorker);
    if (this.opened) {
      // Nobody waits for this answer; where it fails, the calls after it say that no model is open.
      const call: ToWorker = { kind: "call", id: ++this.lastId, method: "open", args: this.opened };
      worker.postMessage(call);
    }
    return worker;
  }

  /** Ends the worker that does not come back from a cancelled call; another goes on with the rest. */
  private abandon(id: number): void {
    const cancelled = this.pending.get(id);
    this.pending.delete(id);
    this.end();
    for (const { message } of this.pending.values()) this.send(message);
    cancelled?.reject(abortError());
  }

  private end(): void {
    this.worker?.terminate();
    this.worker = null;
  }

  private receive(message: FromWorker): void {
    const waiting = this.pending.get(message.id);
    if (!waiting) return;
    if (message.kind === "event") return waiting.tell(message.event);
    this.pending.delete(message.id);
    if (message.kind === "result") return waiting.resolve(message.result);
    const { kind, name, message: text } = message.error;
    if (name === "AbortError") waiting.reject(abortError());
    else waiting.reject(kind ? new FlowshipError(kind, text) : new Error(text));
  }

  /** The worker is gone: whoever waits is told. */
  private fail(message: string): void {
    this.end(); // the next call starts another
    for (const { reject } of this.pending.values()) {
      reject(new FlowshipError("engine", `the browser's engine has stopped (${message}): try again, or reload the page`));
    }
    this.pending.clear();
  }

  private send(message: ToWorker): void {
    (this.worker ??= this.start()).postMessage(message);
  }
}
