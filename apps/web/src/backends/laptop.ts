/** The engine behind `flowship serve`, through the API of docs/server-api.md. */

import type { Row } from "../core/bench_row";
import { FlowshipError, usageError } from "../core/errors";
import type { JsonObject } from "../core/json";
import { planJson } from "../core/plan";
import { prepare } from "../core/prepare";
import { loadRecipe, parseSeed } from "../core/recipe";
import type {
  Backend, BenchmarkRequest, DecodeRequest, Encoded, GenerateRequest, InterpolateRequest, ModelInfo,
  ModelSummary, OnProgress, OpenOptions, Picture, Pixels, SamplingOptions, Score, ScoreOptions,
} from "../engine/api";
import { rowOf, timePictures } from "../engine/timing";
import type { ServerClient } from "./server_client";
import {
  decodeFloats, encodeBytes, encodeFloats, type ServerBundle, type ServerEncoded, type ServerPicture,
  type ServerProgress, type ServerScore, type ServerStarted, toInfo, toPixels, toProgress,
} from "./server_json";

export class LaptopBackend implements Backend {
  readonly kind = "laptop";
  private model: ModelInfo | null = null;
  /** The picture that was sent last, and what the open model sees of it. */
  private prepared: { readonly image: Pixels; readonly seen: Pixels } | null = null;

  constructor(private readonly server: ServerClient) {}

  async listModels(): Promise<ModelSummary[]> {
    return (await this.bundles()).map((bundle) => toInfo(bundle));
  }

  async open(id: string, options: OpenOptions = {}, signal?: AbortSignal): Promise<ModelInfo> {
    const found = (await this.bundles(signal)).find((bundle) => bundle.id === id);
    if (!found) throw usageError(`the laptop's engine has no bundle ${id}: start flowship serve with it`);
    const { precision } = options;
    if (precision && !found.precisions.includes(precision)) {
      throw usageError(`${found.name} has no precision ${precision}: it has ${found.precisions.join(", ")}`);
    }
    this.prepared = null;
    this.model = toInfo(found, precision);
    return this.model;
  }

  async generate(request: GenerateRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture> {
    const body = { ...this.sampling(request), seeds: [parseSeed(request.seed).toString()] };
    return one(await this.pictures("generate", body, onProgress, undefined, signal));
  }

  async decode(request: DecodeRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture> {
    const body = {
      ...this.sampling(request), latents: encodeFloats(request.latent), input: request.input ?? "noise",
    };
    return one(await this.pictures("decode", body, onProgress, undefined, signal));
  }

  async interpolate(
    request: InterpolateRequest, onPicture?: (index: number, picture: Picture) => void, signal?: AbortSignal,
  ): Promise<Picture[]> {
    const body = {
      ...this.sampling(request), preview: false, steps: BigInt(request.steps),
      first: { z: encodeFloats(request.first) }, last: { z: encodeFloats(request.last) },
    };
    return this.pictures("interpolate", body, undefined, onPicture, signal);
  }

  async encode(image: Pixels, label: number | null, signal?: AbortSignal): Promise<Encoded> {
    const found = await this.single<ServerEncoded>("encode", "encoded", this.picture(image, label), signal);
    return { z: decodeFloats(found.z), logdet: found.logdet, input: toPixels(found.input) };
  }

  async score(image: Pixels, options: ScoreOptions = {}, signal?: AbortSignal): Promise<Score> {
    const body = {
      ...this.picture(image, options.label ?? null), noise: options.noise ?? "none",
      noise_seed: parseSeed(options.noiseSeed ?? 0n).toString(),
    };
    const found = await this.single<ServerScore>("score", "scored", body, signal);
    return {
      bitsPerDim: found.bits_per_dim, nll: found.nll, logdet: found.logdet, convention: found.convention,
      input: toPixels(found.input),
    };
  }

  /** By the engine's own clock: neither the way here nor the queue counts. */
  async benchmark(request: BenchmarkRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Row> {
    const { seed = 0n, window = "plan", ...options } = request;
    if (window !== "plan") throw usageError("the laptop's engine is timed with its own plan alone");
    const body = { ...this.sampling(options), seeds: [parseSeed(seed).toString()], preview: false };
    const make = async (): Promise<Picture> => {
      let seconds = 0;
      const watch: OnProgress = (event) => {
        if (event.kind === "waiting") onProgress?.(event);
        if (event.kind === "progress") seconds = event.seconds; // the last one comes with the last patch
      };
      const picture = one(await this.pictures("generate", body, watch, undefined, signal));
      if (!(seconds > 0)) throw new FlowshipError("engine", "the laptop's engine does not say how long it took");
      return { ...picture, seconds };
    };
    const { numPatches, engine } = this.opened;
    return rowOf(await timePictures(make, onProgress), {
      window: "auto", engine, numPatches, loadMs: null,
      machine: { cores: null, memory_gb: null, os: null }, // of the server, which does not say
      conditions: "through flowship serve, by its engine's clock; other programs unknown",
    });
  }

  async close(): Promise<void> {
    this.model = this.prepared = null;
  }

  private get opened(): ModelInfo {
    if (!this.model) throw usageError("no model is open");
    return this.model;
  }

  private get bundle(): JsonObject {
    return { bundle: this.opened.id, precision: this.opened.engine.precision };
  }

  private sampling(options: SamplingOptions): JsonObject {
    const { label = null, plan } = options;
    return {
      ...this.bundle, labels: [label === null ? null : BigInt(label)], guidance: options.guidance ?? 0,
      guide_what: options.guideWhat ?? "ab", annealed_guidance: options.annealed ?? false,
      attn_temp: options.attnTemp ?? 1, denoise: options.denoise ?? false,
      ...(plan ? { plan: planJson(plan) } : {}),
    };
  }

  /** As the model sees it, which the server would make of it, bit for bit: a photo as it is would be
   * larger than the bodies that the server reads, and nothing more has to leave this page. */
  private picture(image: Pixels, label: number | null): JsonObject {
    if (this.prepared?.image !== image) {
      const { width: imgSize, channels: inChannels } = this.opened;
      this.prepared = { image, seen: prepare(image, { imgSize, inChannels }) };
    }
    const { width, height, channels, data } = this.prepared.seen;
    return {
      ...this.bundle, label: label === null ? null : BigInt(label),
      image: { width: BigInt(width), height: BigInt(height), channels: BigInt(channels), data: encodeBytes(data) },
    };
  }

  private async bundles(signal?: AbortSignal): Promise<ServerBundle[]> {
    return (await this.server.get<{ bundles: ServerBundle[] }>("bundles", signal)).bundles;
  }

  private async pictures(
    route: string, body: JsonObject, onProgress: OnProgress | undefined,
    onPicture: ((index: number, picture: Picture) => void) | undefined, signal: AbortSignal | undefined,
  ): Promise<Picture[]> {
    const started = performance.now();
    const made: Picture[] = [];
    const wait = (ahead: number | null) => onProgress?.({ kind: "waiting", ahead });
    await this.server.stream(route, body, (name, data) => {
      if (name === "queued") wait((data as { position: number }).position);
      if (name === "progress") onProgress?.(toProgress(data as ServerProgress));
      if (name === "started") {
        const { num_blocks: numBlocks, num_patches: numPatches } = data as ServerStarted;
        onProgress?.({ kind: "started", numBlocks, numPatches });
      }
      if (name === "denoising") onProgress?.({ kind: "denoising", seconds: (data as { seconds: number }).seconds });
      if (name !== "picture") return;
      const { index, pixels, recipe } = data as ServerPicture;
      const seconds = (performance.now() - started) / 1000;
      made[index] = { pixels: toPixels(pixels), recipe: loadRecipe(recipe), seconds, calls: null };
      onPicture?.(index, made[index]);
    }, signal, () => wait(null));
    return made;
  }

  private async single<T>(route: string, event: string, body: JsonObject, signal?: AbortSignal): Promise<T> {
    let found: T | undefined;
    await this.server.stream(route, body, (name, data) => {
      if (name === event) found = data as T;
    }, signal);
    if (found === undefined) throw new FlowshipError("engine", `the laptop's engine sent no ${event}`);
    return found;
  }
}

function one(pictures: readonly Picture[]): Picture {
  const found = pictures[0];
  if (!found) throw new FlowshipError("engine", "the laptop's engine sent no picture");
  return found;
}
