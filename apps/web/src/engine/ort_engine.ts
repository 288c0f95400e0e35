/** ONNX Runtime Web: the step and denoising graphs of one bundle in one precision. */

import type { InferenceSession, Tensor } from "onnxruntime-web";
import type { Bundle } from "../core/bundle";
import { FlowshipError, messageOf } from "../core/errors";
import { branchesOf, type Guidance } from "../core/guidance";
import { type Artifact, findArtifact } from "../core/manifest";
import type { Affine, Stage } from "../core/sampler";
import { type ARBlock, arBlocks } from "../core/spec";
import { type CacheType, cacheType, runWindow } from "./onnx_forms";

export type Ort = typeof import("onnxruntime-web");
export type Device = "wasm" | "webgpu";

// Sessions of all blocks stay open below this; above, only the running block's (4 GiB is the most
// that WebAssembly can address, and phones give less).
const RESIDENT_BYTES = 512 << 20;

/** Position and class rows of one block: what the host adds up to the graphs' context. */
export interface ContextRows {
  /** [T, C] in the block's own order. */
  readonly pos: Float32Array;
  /** [K + 1, C], the last is the unconditional row. */
  readonly classes: Float32Array;
}

export class OrtEngine {
  private readonly sessions = new Map<Artifact, Promise<InferenceSession>>();
  private readonly rows = new Map<string, Promise<ContextRows>>();
  private readonly keepAll: boolean;

  constructor(
    private readonly ort: Ort,
    readonly bundle: Bundle,
    readonly precision: string,
    private readonly device: Device,
  ) {
    const { manifest } = bundle;
    const files = new Set(
      arBlocks(manifest.spec).flatMap((b) => findArtifact(manifest, precision, "step", b.name, 1).files),
    );
    const total = [...files].reduce((sum, file) => sum + (manifest.files.get(file)?.bytes ?? 0), 0);
    this.keepAll = 2 * total <= RESIDENT_BYTES; // guided graphs hold a copy of their own
  }

  /** A block, begun for one picture with this label (null is unconditional). */
  async stage(block: ARBlock, label: number | null, guidance: Guidance): Promise<Stage> {
    const branches = branchesOf(guidance);
    const artifact = findArtifact(this.bundle.manifest, this.precision, "step", block.name, branches);
    const session = await this.session(artifact);
    const spec = this.bundle.manifest.spec;
    const rows = await this.contextRows(block);
    const last = spec.numClasses;
    const labels = [label ?? last, last].slice(0, branches);
    const form = { form: artifact.form, cache: cacheType(this.precision, artifact.form) };
    return new OrtStage(this.ort, session, block, spec.image, rows, labels, guidance.attnTemp, form);
  }

  /** Gradient of sum(gradA * xa + gradB * xb) with respect to x; all [T, D]. */
  async vjp(
    block: ARBlock, label: number | null, x: Float32Array, gradA: Float32Array, gradB: Float32Array,
  ): Promise<Float32Array> {
    const artifact = findArtifact(this.bundle.manifest, this.precision, "vjp", block.name, 1);
    const session = await this.session(artifact);
    const { numPatches: T, patchDim: D } = this.bundle.manifest.spec.image;
    const row = label ?? this.bundle.manifest.spec.numClasses;
    const context = contextOf(await this.contextRows(block), row, block.channels);
    const arrays: Record<string, Float32Array> = { x, context, grad_xa: gradA, grad_xb: gradB };
    const feeds = Object.fromEntries(session.inputNames.map((name) => {
      const shape = [T, name === "context" ? block.channels : D];
      return [name, new this.ort.Tensor("float32", arrays[name], shape)];
    }));
    const found = await run(session, feeds);
    return Float32Array.from(found[session.outputNames[0]].data as Float32Array);
  }

  async close(): Promise<void> {
    const open = [...this.sessions.values()];
    this.sessions.clear();
    for (const session of open) await (await session).release();
  }

  private contextRows(block: ARBlock): Promise<ContextRows> {
    return remember(this.rows, block.name, async () => ({
      pos: await this.bundle.array(`${block.name}.pos`),
      classes: await this.bundle.array(`${block.name}.classes`),
    }));
  }

  private async session(artifact: Artifact): Promise<InferenceSession> {
    if (!this.keepAll && !this.sessions.has(artifact)) await this.close();
    return remember(this.sessions, artifact, () => this.load(artifact));
  }

  private async load(artifact: Artifact): Promise<InferenceSession> {
    const graph = await this.bundle.file(artifact.path);
    // A graph refers to its weights from its own folder on: a file of the same name elsewhere is another.
    const folder = artifact.path.slice(0, artifact.path.lastIndexOf("/") + 1);
    const others = artifact.files.filter((file) => file !== artifact.path && file.startsWith(folder));
    const externalData = await Promise.all(others.map(async (file) => (
      { path: file.slice(folder.length), data: await this.bundle.file(file) }
    )));
    try {
      return await this.ort.InferenceSession.create(graph, {
        executionProviders: [this.device],
        externalData,
        logSeverityLevel: 4, // errors come as exceptions
      });
    } catch (error) {
      throw new FlowshipError("engine", `onnxruntime-web cannot load ${artifact.path}: ${messageOf(error)}`);
    }
  }
}

/** A block in one of the forms `gqa...`; see docs/bundle.md for its inputs and outputs. */
class OrtStage implements Stage {
  private readonly feeds: Record<string, Tensor> = {};
  private readonly caches: readonly string[];
  private readonly contexts: readonly Float32Array[];
  private readonly branches: number;

  constructor(
    private readonly ort: Ort,
    private readonly session: InferenceSession,
    private readonly block: ARBlock,
    private readonly image: { readonly numPatches: number; readonly patchDim: number },
    rows: ContextRows,
    labels: readonly number[],
    attnTemp: number,
    private readonly form: { readonly form: string; readonly cache: CacheType },
  ) {
    this.branches = labels.length;
    this.contexts = labels.map((label) => contextOf(rows, label, block.channels));
    this.caches = session.inputNames.filter((name) => name.startsWith("past_"));
    // ONNX Runtime Web copies the cache in and out of WebAssembly's memory at each call. GQA gives
    // back as many rows as are in use, so that it grows with the picture: half the copying.
    const shape = [1, this.branches * block.numHeads, 1, block.headDim];
    const size = shape.reduce((a, b) => a * b, 1);
    for (const name of this.caches) this.feeds[name] = zeros(ort, form.cache, size, shape);
    if (this.branches === 2) {
      const scale = new Float32Array(2 * block.channels).fill(1 / attnTemp).fill(1, 0, block.channels);
      this.feeds["q_scale"] = new ort.Tensor("float32", scale, [2 * block.channels]);
    }
  }

  async step(x: Float32Array, position: number): Promise<Affine> {
    const { patchDim: D } = this.image;
    const { channels: C } = this.block;
    const window = x.length / D;
    const rows = runWindow(window, this.form.form, this.branches);
    const end = position + rows;
    this.feeds["x"] = this.tensor(this.contexts.map(() => x), rows, D);
    const contexts = this.contexts.map((context) => context.subarray(position * C, (position + window) * C));
    this.feeds["context"] = this.tensor(contexts, rows, C);
    this.feeds["seqlens_k"] = new this.ort.Tensor("int32", Int32Array.of(end - 1), [1]);
    this.feeds["total_len"] = new this.ort.Tensor("int32", Int32Array.of(end), []);
    const found = await run(this.session, this.feeds);
    for (const name of this.caches) this.feeds[name] = found[name.replace("past_", "present_")];
    const data = found["ab"].data as Float32Array;
    const volumePreserving = this.block.scale === "none";
    const stride = volumePreserving ? D : 2 * D;
    return { data, stride, offsetA: volumePreserving ? null : 0, offsetB: volumePreserving ? 0 : D };
  }

  /** [1, rows, size], without a copy where it has them all, or the two branches [rows, 2, size]; rows that the
   * parts do not have are zero. */
  private tensor(parts: readonly Float32Array[], rows: number, size: number): Tensor {
    const branches = parts.length;
    if (branches === 1 && parts[0].length === rows * size) {
      return new this.ort.Tensor("float32", parts[0], [1, rows, size]);
    }
    const data = new Float32Array(branches * rows * size);
    for (let w = 0; w < rows; w++) {
      parts.forEach((part, b) => data.set(part.subarray(w * size, (w + 1) * size), (branches * w + b) * size));
    }
    return new this.ort.Tensor("float32", data, branches === 1 ? [1, rows, size] : [rows, 2, size]);
  }
}

function zeros(ort: Ort, type: CacheType, size: number, shape: readonly number[]): Tensor {
  if (type === "int8") return new ort.Tensor(type, new Int8Array(size), shape);
  if (type === "float16") return new ort.Tensor(type, new Uint16Array(size), shape); // the bits of 0 are 0
  return new ort.Tensor(type, new Float32Array(size), shape);
}

async function run(session: InferenceSession, feeds: Record<string, Tensor>) {
  try {
    return await session.run(feeds);
  } catch (error) {
    throw new FlowshipError("engine", `onnxruntime-web cannot run the graph: ${messageOf(error)}`);
  }
}

/** [T, C] position rows plus the class row. */
function contextOf({ pos, classes }: ContextRows, row: number, channels: number): Float32Array {
  const label = classes.subarray(row * channels, (row + 1) * channels);
  return pos.map((value, i) => value + label[i % channels]);
}

function remember<K, V>(known: Map<K, Promise<V>>, key: K, make: () => Promise<V>): Promise<V> {
  let value = known.get(key);
  if (!value) {
    value = make();
    known.set(key, value);
    value.catch(() => known.delete(key)); // a failure may be tried again
  }
  return value;
}
