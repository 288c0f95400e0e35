/** The engine behind `flowship serve`, through the API of docs/server-api.md. */

import { abortError, type ErrorKind, FlowshipError, messageOf, usageError } from "../core/errors";
import { dumpJson, type JsonObject } from "../core/json";
import { planJson } from "../core/plan";
import { loadRecipe, parseSeed } from "../core/recipe";
import type {
  Backend, BenchmarkRequest, DecodeRequest, Encoded, GenerateRequest, InterpolateRequest, ModelInfo,
  ModelSummary, OnProgress, OpenOptions, Picture, Pixels, SamplingOptions, Score, ScoreOptions,
} from "../engine/api";
import type { Row } from "../core/bench_row";
import { readEvents } from "./server_events";

const TOKEN_KEY = "flowship-token";
const DETECTION_TIME = 1500; // ms; a server on the same machine answers at once

// JSON as the server sends it; it is the page's own origin, and its answers are data only.
interface ServerPixels { width: number; height: number; channels: 1 | 3 | 4; data: string }
interface ServerBundle {
  id: string; name: string; sha256: string; bytes: number; width: number; height: number; channels: number;
  classes: string[]; precisions: string[]; guidance: boolean; denoise_precisions: string[];
  training_noise: ModelInfo["trainingNoise"]; num_blocks: number; num_patches: number; patch_size: number;
  num_parameters: number | null; licence: string | null; source_file: string; engine: ModelInfo["engine"];
}
interface ServerProgress {
  block: string; block_index: number; patches: number; num_patches: number; fraction: number;
  seconds: number; seconds_left: number; previews?: ServerPixels[];
}
interface ServerPicture { index: number; pixels: ServerPixels; recipe: string }
interface ServerScore { bits_per_dim: number; nll: number; logdet: number; convention: string; input: ServerPixels }
interface ServerEncoded { z: string; logdet: number; input: ServerPixels }

/** The laptop's engine where this page comes from `flowship serve`; null elsewhere. */
export async function connectLaptop(): Promise<LaptopBackend | null> {
  const token = takeToken();
  // Without a token nothing can be computed: no need to ask, and static hosts see no stray request.
  if (!token) return null;
  try {
    const response = await fetch("api/status", { signal: AbortSignal.timeout(DETECTION_TIME) });
    const status = response.ok ? ((await response.json()) as { name?: unknown }) : {};
    return status.name === "flowship" ? new LaptopBackend(token) : null;
  } catch {
    return null; // the server has ended: the page goes on in the browser
  }
}

/** From the fragment, which is then cleared: it should not stay in the history or in a shared address. */
function takeToken(): string | null {
  const found = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (found) {
    sessionStorage.setItem(TOKEN_KEY, found);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(TOKEN_KEY);
}

export class LaptopBackend implements Backend {
  readonly kind = "laptop";
  private model: ModelInfo | null = null;

  constructor(private readonly token: string) {}

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

  async benchmark(_request: BenchmarkRequest): Promise<Row> {
    throw usageError("the laptop's engine is measured by the command flowship bench, without a browser beside it");
  }

  async close(): Promise<void> {
    this.model = null;
  }

  private get bundle(): JsonObject {
    if (!this.model) throw usageError("no model is open");
    return { bundle: this.model.id, precision: this.model.engine.precision };
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

  private picture(image: Pixels, label: number | null): JsonObject {
    const { width, height, channels, data } = image;
    return {
      ...this.bundle, label: label === null ? null : BigInt(label),
      image: { width: BigInt(width), height: BigInt(height), channels: BigInt(channels), data: encodeBytes(data) },
    };
  }

  private async bundles(signal?: AbortSignal): Promise<ServerBundle[]> {
    const response = await this.ask("bundles", { signal });
    return ((await response.json()) as { bundles: ServerBundle[] }).bundles;
  }

  private async pictures(
    route: string, body: JsonObject, onProgress: OnProgress | undefined,
    onPicture: ((index: number, picture: Picture) => void) | undefined, signal: AbortSignal | undefined,
  ): Promise<Picture[]> {
    const started = performance.now();
    const made: Picture[] = [];
    await this.stream(route, body, (name, data) => {
      if (name === "progress") onProgress?.(toProgress(data as ServerProgress));
      if (name === "started") {
        const { num_blocks: numBlocks, num_patches: numPatches } = data as { num_blocks: number; num_patches: number };
        onProgress?.({ kind: "started", numBlocks, numPatches });
      }
      if (name === "denoising") onProgress?.({ kind: "denoising", seconds: (data as { seconds: number }).seconds });
      if (name !== "picture") return;
      const { index, pixels, recipe } = data as ServerPicture;
      const seconds = (performance.now() - started) / 1000;
      made[index] = { pixels: toPixels(pixels), recipe: loadRecipe(recipe), seconds, calls: null };
      onPicture?.(index, made[index]);
    }, signal);
    return made;
  }

  private async single<T>(route: string, event: string, body: JsonObject, signal?: AbortSignal): Promise<T> {
    let found: T | undefined;
    await this.stream(route, body, (name, data) => {
      if (name === event) found = data as T;
    }, signal);
    if (found === undefined) throw new FlowshipError("engine", `the laptop's engine sent no ${event}`);
    return found;
  }

  /** Closing the stream, as an abort does, cancels the job. */
  private async stream(
    route: string, body: JsonObject, onEvent: (name: string, data: unknown) => void, signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.ask(route, {
      method: "POST", body: dumpJson(body), headers: { "Content-Type": "application/json" }, signal,
    });
    for await (const { name, data } of readEvents(response.body!)) {
      const value: unknown = JSON.parse(data);
      if (name === "done") return;
      if (name === "cancelled") throw abortError();
      if (name === "error") {
        const { kind, message } = value as { kind: string; message: string };
        throw new FlowshipError(errorKind(kind), message);
      }
      onEvent(name, value);
    }
    throw new FlowshipError("engine", "the laptop's engine ended the answer early");
  }

  private async ask(route: string, init: Omit<RequestInit, "signal"> & { signal?: AbortSignal | undefined }): Promise<Response> {
    const { signal, ...rest } = init;
    let response: Response;
    try {
      response = await fetch(`api/${route}`, {
        ...rest, ...(signal ? { signal } : {}),
        headers: { ...(rest.headers as Record<string, string>), Authorization: `Bearer ${this.token}` },
      });
    } catch (error) {
      if (signal?.aborted) throw abortError();
      throw new FlowshipError("engine", `the laptop's engine does not answer (${messageOf(error)}): is flowship `
        + "serve still running? Choose this browser under Device to go on without it");
    }
    if (response.ok) return response;
    const answer = (await response.json().catch(() => null)) as { error?: { kind: string; message: string } } | null;
    const { kind = "engine", message = `the laptop's engine answered with status ${response.status}` } = answer?.error ?? {};
    throw new FlowshipError(errorKind(kind), response.status === 401
      ? `${message}: open the address that flowship serve printed` : message);
  }
}

function errorKind(kind: string): ErrorKind {
  if (kind === "usage" || kind === "bundle") return kind;
  return kind === "non_finite" ? "nonfinite" : "engine";
}

function one(pictures: readonly Picture[]): Picture {
  const found = pictures[0];
  if (!found) throw new FlowshipError("engine", "the laptop's engine sent no picture");
  return found;
}

function toInfo(bundle: ServerBundle, precision = bundle.engine.precision): ModelInfo {
  const { id, name, sha256, bytes, width, height, channels, classes, precisions, guidance, licence } = bundle;
  return {
    id, name, sha256, bytes, removable: false, width, height, channels, classes, precisions, guidance, licence,
    denoise: bundle.denoise_precisions.includes(precision), engine: { ...bundle.engine, precision }, trainingNoise: bundle.training_noise, numBlocks: bundle.num_blocks,
    numPatches: bundle.num_patches, patchSize: bundle.patch_size, numParameters: bundle.num_parameters,
    sourceFile: bundle.source_file,
  };
}

function toProgress(event: ServerProgress): Parameters<OnProgress>[0] {
  const preview = event.previews?.[0];
  return {
    kind: "progress", block: event.block, blockIndex: event.block_index, patches: event.patches,
    numPatches: event.num_patches, fraction: event.fraction, seconds: event.seconds,
    secondsLeft: event.seconds_left, preview: preview ? toPixels(preview) : null,
  };
}

const toPixels = (pixels: ServerPixels): Pixels => ({ ...pixels, data: decodeBytes(pixels.data) });

function decodeBytes(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function encodeBytes(bytes: Uint8Array | Uint8ClampedArray): string {
  const parts: string[] = [];
  // A call has a limited number of arguments.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  }
  return btoa(parts.join(""));
}

/** Little-endian float32: every platform that runs a browser is. */
const decodeFloats = (text: string): Float32Array => new Float32Array(decodeBytes(text).buffer);
const encodeFloats = (values: Float32Array): string =>
  encodeBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
