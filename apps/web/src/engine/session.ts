/** What the worker does for the page: one opened model, and the methods of the protocol. */

import { Bundle } from "../core/bundle";
import { abortError, usageError } from "../core/errors";
import { slerp } from "../core/interpolation";
import { bundleBytes } from "../core/manifest";
import { runnablePrecisions } from "../core/supported";
import type { DecodeRequest, InterpolateRequest, ModelInfo, ModelSummary, OpenOptions, Picture } from "./api";
import { Flow } from "./flow";
import { benchmark, calibrate } from "./measure";
import { type Device, type Ort, OrtEngine } from "./ort_engine";
import type { Args, EventOf, Method, Result } from "./protocol";
import { fetchedSource } from "./sources";
import { OpfsStore } from "./store";

export const EMBEDDED = "embedded";
const SMALL_BLOCK_BYTES = 32 << 20; // one thread below it: a second costs more than it brings
const MAX_STEPS = 64;

type Handlers = {
  readonly [M in Method]: (
    args: Args<M>, tell: (event: EventOf<M>) => void, signal: AbortSignal,
  ) => Promise<Result<M>>;
};

export class Session {
  private readonly store = new OpfsStore();
  private opened: { readonly flow: Flow; readonly loadMs: number } | null = null;

  constructor(
    private readonly base: string,
    private readonly loadOrt: (device: Device, threads: number) => Promise<Ort>,
  ) {}

  readonly handlers: Handlers = {
    listModels: async () => [await this.embedded(), ...(await this.store.list().catch(() => []))],
    open: ([id, options], _, signal) => this.open(id, options, signal),
    generate: ([request], tell, signal) => this.flow.generate(request, tell, signal),
    decode: ([request], tell, signal) => this.flow.decode(request, tell, signal),
    encode: ([image, label], _, signal) => this.flow.encode(image, label, signal),
    score: ([image, options], _, signal) => this.flow.score(image, options, signal),
    interpolate: ([request], tell, signal) =>
      this.interpolate(request, (index, picture) => tell({ index, picture }), signal),
    benchmark: ([request], tell, signal) =>
      benchmark(this.flow, request, this.opened?.loadMs ?? 0, tell, signal),
    calibrate: (_args, tell, signal) => calibrate(this.flow, tell, signal),
    listStored: () => this.store.list(),
    importZip: ([file], tell, signal) => this.store.importZip(file, tell, signal),
    removeStored: ([id]) => this.store.remove(id),
    close: () => this.close(),
  };

  private get flow(): Flow {
    if (!this.opened) throw usageError("no model is open");
    return this.opened.flow;
  }

  private async embedded(): Promise<ModelSummary> {
    const { manifest, sha256 } = await this.bundle(EMBEDDED);
    const precisions = runnablePrecisions(manifest);
    const bytes = bundleBytes(manifest);
    return { id: EMBEDDED, name: manifest.name, sha256, bytes, removable: false, engineName: "onnx", precisions };
  }

  private bundle(id: string): Promise<Bundle> {
    if (id === EMBEDDED) return Bundle.open(fetchedSource(new URL("bundle/", this.base).href));
    return this.store.open(id);
  }

  private async open(id: string, options: OpenOptions, signal: AbortSignal): Promise<ModelInfo> {
    const start = performance.now();
    const bundle = await this.bundle(id);
    const precision = choosePrecision(bundle, options.precision);
    const { device = "wasm", threads = defaultThreads(bundle) } = options;
    if (!Number.isInteger(threads) || threads < 1) throw usageError(`threads ${threads} is below 1`);
    const used = globalThis.crossOriginIsolated && device === "wasm" ? threads : 1;
    const ort = await this.loadOrt(device, used);
    if (signal.aborted) throw abortError();
    const version = `onnxruntime-web ${ort.env.versions.web ?? ort.env.versions.common}`;
    // The first session fixes the number of threads until the page is loaded again.
    const actual = ort.env.wasm.numThreads ?? 1;
    const info = { name: "onnx", version, device, precision, threads: actual };
    const flow = await Flow.open(new OrtEngine(ort, bundle, precision, device), info);
    await this.close();
    this.opened = { flow, loadMs: performance.now() - start };
    return flow.describe(id, id !== EMBEDDED);
  }

  private async interpolate(
    { first, last, steps, ...options }: InterpolateRequest,
    onPicture: (index: number, picture: Picture) => void, signal: AbortSignal,
  ): Promise<Picture[]> {
    if (!Number.isInteger(steps) || steps < 2 || steps > MAX_STEPS) {
      throw usageError(`steps ${steps} is not from 2 to ${MAX_STEPS}`);
    }
    if (first.length !== last.length) throw usageError("the two latents have different lengths");
    const pictures: Picture[] = [];
    for (let i = 0; i < steps; i++) {
      const latent = slerp(first, last, i / (steps - 1));
      const request: DecodeRequest = { ...options, latent, input: "z" };
      const picture = await this.flow.decode(request, undefined, signal);
      onPicture(i, picture);
      pictures.push(picture);
    }
    return pictures;
  }

  private async close(): Promise<void> {
    const opened = this.opened;
    this.opened = null;
    await opened?.flow.engine.close();
  }
}

function choosePrecision({ manifest }: Bundle, wanted: string | undefined): string {
  const there = runnablePrecisions(manifest);
  if (wanted === undefined) return there[0];
  if (!there.includes(wanted)) {
    throw usageError(
      `the bundle ${manifest.name} has no precision '${wanted}' for onnx: choose from ${there.join(", ")}`,
    );
  }
  return wanted;
}

function defaultThreads({ manifest }: Bundle): number {
  const largest = Math.max(...[...manifest.files.values()].map((entry) => entry.bytes));
  return largest < SMALL_BLOCK_BYTES ? 1 : Math.min(navigator.hardwareConcurrency ?? 1, 8);
}
