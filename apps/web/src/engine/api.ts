/** What the interface is built on: a backend that runs a flow, in this browser or on this laptop. */

import type { Recipe } from "../core/recipe";
import type { Row } from "../core/bench_row";
import type { Plan } from "../core/plan";

/** A picture as bytes, row by row, channels together: 1 grey, 3 RGB, 4 RGBA (not premultiplied). */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3 | 4;
  readonly data: Uint8Array | Uint8ClampedArray;
}

/** A bundle that can be opened. `id` is "embedded" or the bundle's sha256. */
export interface ModelSummary {
  readonly id: string;
  readonly name: string;
  /** Of manifest.json: the identity of the bundle and of every file in it. */
  readonly sha256: string;
  /** Of all files; for a bundle in the browser's storage what "remove" gives back. */
  readonly bytes: number;
  readonly removable: boolean;
  /** Of the engine that runs it, as recipes have it, such as "onnx". */
  readonly engineName: string;
  /** Those this backend can run, the default first. */
  readonly precisions: readonly string[];
  /** Why it cannot be opened; absent where it can. */
  readonly problem?: string;
}

export interface EngineInfo {
  /** Such as "onnx". */
  readonly name: string;
  /** Such as "onnxruntime-web 1.30.0". */
  readonly version: string;
  /** Such as "wasm", "webgpu" or "cpu". */
  readonly device: string;
  readonly precision: string;
  readonly threads: number;
}

export interface ModelInfo extends ModelSummary {
  /** In pixels. */
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** Names in the order of the class numbers; "class 0", ... where the bundle has no names; empty
   * for a model without classes. */
  readonly classes: readonly string[];
  readonly guidance: boolean;
  /** Whether generate() may be asked to denoise. */
  readonly denoise: boolean;
  readonly trainingNoise: { readonly kind: "gaussian" | "uniform" | "unknown"; readonly std: number | null };
  readonly numBlocks: number;
  /** T: patches in a picture, and their side in pixels. */
  readonly numPatches: number;
  readonly patchSize: number;
  readonly numParameters: number | null;
  readonly licence: string | null;
  readonly sourceFile: string;
  readonly engine: EngineInfo;
}

export interface OpenOptions {
  readonly precision?: string;
  /** Browser only; "webgpu" fails with an error where there is none. Default "wasm". */
  readonly device?: "wasm" | "webgpu";
  /** Of one engine call; default 1 for small models, else the cores (when cross-origin isolated). */
  readonly threads?: number;
}

export type GuideWhat = "ab" | "a" | "b";

/** How to sample; everything left out has the default that Python has. */
export interface SamplingOptions {
  /** Class number; null (the default) is unconditional. */
  readonly label?: number | null;
  /** 0 (the default) is no guidance. */
  readonly guidance?: number;
  readonly guideWhat?: GuideWhat;
  /** Guidance grows over the patches. */
  readonly annealed?: boolean;
  /** Temperature of the unconditional branch's attention. */
  readonly attnTemp?: number;
  readonly denoise?: boolean;
  /** null (the default) is the bundle's plan, or the one that `calibrate` chose before. */
  readonly plan?: Plan | null;
}

export interface GenerateRequest extends SamplingOptions {
  /** 0 to 2^64 - 1, as a decimal string or a bigint. */
  readonly seed: string | bigint;
}

export interface DecodeRequest extends SamplingOptions {
  /** [T, D] in the order of the patches; as encode() gives it (z), or standard normal noise. */
  readonly latent: Float32Array;
  readonly input?: "z" | "noise";
}

export interface InterpolateRequest extends SamplingOptions {
  /** Two latents z of encode(). */
  readonly first: Float32Array;
  readonly last: Float32Array;
  /** Pictures, both ends included: 2 to 64. */
  readonly steps: number;
}

export interface ScoreOptions {
  readonly label?: number | null;
  /** "train" adds the training noise first, as the model saw its pictures; default "none". */
  readonly noise?: "none" | "train";
  readonly noiseSeed?: string | bigint;
}

/** How far it is; every event but "started" comes at most every 50 ms and at the end of a block. */
export type Progress =
  /** Jobs of others come first: `ahead` of them wait too, or null where not even the queue has room. */
  | { readonly kind: "waiting"; readonly ahead: number | null }
  | { readonly kind: "started"; readonly numBlocks: number; readonly numPatches: number }
  | {
      readonly kind: "progress";
      /** Name of the running block and its place in the order of generation, 0 to numBlocks - 1. */
      readonly block: string;
      readonly blockIndex: number;
      /** Patches that are final for this block, of numPatches. */
      readonly patches: number;
      readonly numPatches: number;
      /** Of the whole work, 0 to 1. */
      readonly fraction: number;
      readonly seconds: number;
      /** Extrapolated from the time so far over the patches so far. */
      readonly secondsLeft: number;
      /** The picture at this moment; null where there is none (encoding, benchmark). */
      readonly preview: Pixels | null;
    }
  | { readonly kind: "denoising"; readonly seconds: number };

export type OnProgress = (event: Progress) => void;

export interface Picture {
  readonly pixels: Pixels;
  readonly recipe: Recipe;
  /** From the request to the pixels. */
  readonly seconds: number;
  /** Engine calls that it took; null where the engine does not say. */
  readonly calls: number | null;
}

export interface Encoded {
  /** [T, D] in the order of the patches, on the scale of the prior. */
  readonly z: Float32Array;
  /** log |dz/dx|, mean over dimensions. */
  readonly logdet: number;
  /** What the model saw: the dropped picture resized, cropped and made grey or RGB. */
  readonly input: Pixels;
}

export interface Score {
  readonly bitsPerDim: number;
  /** Nats per dimension. */
  readonly nll: number;
  readonly logdet: number;
  /** Data scale, prior and noise, in words; always shown beside the number. */
  readonly convention: string;
  readonly input: Pixels;
}

export interface BenchmarkRequest extends SamplingOptions {
  readonly seed?: string | bigint;
  /** "plan" is what generate() would use, a number is that window in every block. */
  readonly window?: "plan" | number;
}

/** One chosen window for one block, with what it was chosen by. */
export interface PlanOption {
  readonly stage: string;
  readonly window: number;
  readonly guided: boolean;
  readonly callSeconds: number;
  readonly committed: number;
  readonly blockSeconds: number;
  readonly chosen: boolean;
}

export interface Calibration {
  readonly plan: Plan;
  readonly options: readonly PlanOption[];
  readonly seconds: { readonly plain: number; readonly guided: number };
}

/**
 * Runs one opened model. Every call may be cancelled: it then rejects with an error whose `name` is
 * "AbortError". Other errors are FlowshipError: `message` is text for people, `kind` says which.
 * Calls wait for each other.
 */
export interface Backend {
  readonly kind: "browser" | "laptop";
  listModels(): Promise<ModelSummary[]>;
  /** Opens a model and closes the one before it. */
  open(id: string, options?: OpenOptions, signal?: AbortSignal): Promise<ModelInfo>;
  generate(request: GenerateRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture>;
  /** Latent to picture. */
  decode(request: DecodeRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture>;
  /** Picture of any size to latent. */
  encode(image: Pixels, label: number | null, signal?: AbortSignal): Promise<Encoded>;
  score(image: Pixels, options?: ScoreOptions, signal?: AbortSignal): Promise<Score>;
  /** Decodes the latents between two latents; `onPicture` gets each as it is made. */
  interpolate(
    request: InterpolateRequest,
    onPicture?: (index: number, picture: Picture) => void,
    signal?: AbortSignal,
  ): Promise<Picture[]>;
  /** Time per picture as a row of `flowship bench`, with as many pictures as its verdict wants; a list of rows is
   * its JSON format. */
  benchmark(request: BenchmarkRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Row>;
  close(): Promise<void>;
}

/** Bundles in the browser's own storage (OPFS); nothing of them leaves the device. */
export interface ModelStore {
  list(): Promise<ModelSummary[]>;
  /** Checks a zipped bundle as Python does and unpacks it; `fraction` is 0 to 1. */
  importZip(
    file: Blob,
    onProgress?: (fraction: number) => void,
    signal?: AbortSignal,
  ): Promise<ModelSummary>;
  remove(id: string): Promise<void>;
}

/** The browser's backend has a store, and may measure its own plan where the user asks for it. */
export interface BrowserBackend extends Backend {
  readonly kind: "browser";
  readonly store: ModelStore;
  /** Times window lengths on this device and chooses a plan; later calls use it. */
  calibrate(onProgress?: OnProgress, signal?: AbortSignal): Promise<Calibration>;
}
