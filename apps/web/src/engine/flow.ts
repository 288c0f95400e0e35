/** A bundle opened with an engine: latents to pictures and back. The host code of runtime/flow.py. */

import { abortError, FlowshipError, usageError } from "../core/errors";
import { checkGuidance, type Guidance, guidanceWeights, NO_GUIDANCE } from "../core/guidance";
import { fromUint8, interleave, patchify, previewUint8, separate, toBlockOrder, toUint8, unpatchify } from "../core/images";
import { addTrainingNoise, describeConvention, likelihood } from "../core/likelihood";
import { bundleBytes, vjpArtifact } from "../core/manifest";
import { normals } from "../core/normal";
import { defaultPlan, type Plan, type PlanFile, planSha256, planWindow } from "../core/plan";
import { prepare } from "../core/prepare";
import { parseSeed, PHILOX_NOISE, type Recipe } from "../core/recipe";
import { invert } from "../core/sampler";
import { sha256 } from "../core/sha256";
import { type ARBlock, arBlocks, type FlowSpec } from "../core/spec";
import { runnablePrecisions } from "../core/supported";
import { VERSION } from "../core/version";
import type {
  DecodeRequest, Encoded, EngineInfo, GenerateRequest, ModelInfo, OnProgress, Picture, Pixels,
  SamplingOptions, Score, ScoreOptions,
} from "./api";
import type { OrtEngine } from "./ort_engine";

const EVENT_INTERVAL = 50; // ms between two progress events of one block
const BREATH_INTERVAL = 16; // ms between two looks at the messages, of which one may be a cancel

export interface EncodedBlock {
  readonly block: ARBlock;
  /** Its input and output and the log scales (row 0 is zero), [T, D] in its own order. */
  readonly x: Float32Array;
  readonly z: Float32Array;
  readonly xa: Float32Array;
}

export class Flow {
  readonly spec: FlowSpec;
  plan: Plan;
  private lastBreath = performance.now();

  private constructor(
    readonly engine: OrtEngine,
    readonly info: EngineInfo,
    readonly planFile: PlanFile,
    private readonly variances: Float32Array,
  ) {
    this.spec = engine.bundle.manifest.spec;
    this.plan = defaultPlan(planFile, info.precision);
  }

  /** @throws FlowshipError what of the model this program cannot run. */
  static async open(engine: OrtEngine, info: EngineInfo): Promise<Flow> {
    const { bundle } = engine;
    runnablePrecisions(bundle.manifest);
    const { image: { numPatches, patchDim }, latents: [latent] } = bundle.manifest.spec;
    const variances = latent.prior === "standard_normal"
      ? new Float32Array(numPatches * patchDim).fill(1) : await bundle.array("var");
    return new Flow(engine, info, await bundle.planFile(), variances);
  }

  async generate(request: GenerateRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture> {
    const seed = parseSeed(request.seed);
    const { numPatches, patchDim } = this.spec.image;
    const latent = normals(seed, numPatches * patchDim);
    return this.picture({ ...request, latent, input: "noise" }, seed, onProgress, signal);
  }

  decode(request: DecodeRequest, onProgress?: OnProgress, signal?: AbortSignal): Promise<Picture> {
    return this.picture(request, null, onProgress, signal);
  }

  async encode(image: Pixels, label: number | null, signal?: AbortSignal): Promise<Encoded> {
    const input = prepare(image, this.spec.image);
    const { z, logdet } = await this.latentOf(this.floats(input), label, signal);
    return { z, logdet, input };
  }

  async score(image: Pixels, options: ScoreOptions = {}, signal?: AbortSignal): Promise<Score> {
    const { label = null, noise = "none", noiseSeed = 0n } = options;
    const training = this.spec.trainingNoise;
    const input = prepare(image, this.spec.image);
    let values = this.floats(input);
    if (noise === "train") values = addTrainingNoise(values, training, parseSeed(noiseSeed));
    const { z, logdet } = await this.latentOf(values, label, signal);
    const found = likelihood(z, logdet, this.variances);
    return { ...found, logdet, convention: describeConvention(training, noise), input };
  }

  /** What `open` tells about the model. */
  describe(id: string, removable: boolean): ModelInfo {
    const { manifest, sha256: hash } = this.engine.bundle;
    const { image, numClasses, classNames } = this.spec;
    return {
      id, removable,
      name: manifest.name,
      sha256: hash,
      bytes: bundleBytes(manifest),
      width: image.imgSize,
      height: image.imgSize,
      channels: image.inChannels,
      classes: Array.from({ length: numClasses }, (_, i) => classNames[i] ?? `class ${i}`),
      engineName: this.info.name,
      precisions: runnablePrecisions(manifest),
      guidance: this.spec.guidance !== null,
      denoise: this.canDenoise,
      trainingNoise: this.spec.trainingNoise,
      numBlocks: arBlocks(this.spec).length,
      numPatches: image.numPatches,
      patchSize: image.patchSize,
      numParameters: manifest.source.numParameters,
      licence: manifest.source.licence,
      sourceFile: manifest.source.file,
      engine: this.info,
    };
  }

  /** Whether there is a vector-Jacobian graph for every block, as in apps/server/models.py. */
  private get canDenoise(): boolean {
    const { manifest } = this.engine.bundle;
    return this.spec.denoise !== null
      && arBlocks(this.spec).every(({ name }) => vjpArtifact(manifest, this.info.precision, name));
  }

  /** Let messages in, and throw where one of them was a cancel. */
  async breathe(signal?: AbortSignal): Promise<void> {
    if (performance.now() - this.lastBreath >= BREATH_INTERVAL) {
      await nextTask();
      this.lastBreath = performance.now();
    }
    if (signal?.aborted) throw abortError();
  }

  // -- inside --------------------------------------------------------------------------------------

  private async picture(
    request: DecodeRequest, seed: bigint | null, onProgress?: OnProgress, signal?: AbortSignal,
  ): Promise<Picture> {
    const start = performance.now();
    const { image } = this.spec;
    const label = this.checkLabel(request.label ?? null);
    const guidance = guidanceOf(request);
    checkGuidance(guidance);
    if (request.denoise && !this.spec.denoise) {
      throw usageError(
        `this model cannot denoise: its training noise is ${this.spec.trainingNoise.kind}, ` +
          "denoising needs Gaussian noise of a known std (flowship export --noise-std)",
      );
    }
    if (request.denoise && !this.canDenoise) {
      const { name, precision } = this.info;
      throw usageError(`the bundle ${this.engine.bundle.manifest.name} has no denoising graphs for ${name} ${precision}`);
    }
    const plan = request.plan ?? this.plan;
    const z = this.checkLatent(request.latent, request.input ?? "z");
    const recipe = this.recipe(request, plan, seed, z);
    onProgress?.({ kind: "started", numBlocks: arBlocks(this.spec).length, numPatches: image.numPatches });
    const { patches, calls } = await this.run(z, label, guidance, plan, start, onProgress, signal);
    let found = patches;
    if (request.denoise) {
      onProgress?.({ kind: "denoising", seconds: (performance.now() - start) / 1000 });
      found = await this.denoise(patches, label, signal);
    }
    const pixels = this.pixels(toUint8(unpatchify(found, image)));
    return { pixels, recipe, seconds: (performance.now() - start) / 1000, calls };
  }

  /** [T, D] latents through all blocks to patches. */
  private async run(
    z: Float32Array, label: number | null, guidance: Guidance, plan: Plan,
    start: number, onProgress?: OnProgress, signal?: AbortSignal,
  ): Promise<{ patches: Float32Array; calls: number }> {
    const { numPatches: T, patchDim: D } = this.spec.image;
    const blocks = arBlocks(this.spec);
    let state = z;
    let calls = 0;
    let lastEvent = start;
    for (const [blockIndex, block] of blocks.entries()) {
      const guide = block.guided ? guidance : NO_GUIDANCE;
      const x = toBlockOrder(state, D, block.permutation);
      const stage = await this.engine.stage(block, label, guide);
      const windows = {
        window: planWindow(plan, block.name, guide.scale > 0),
        tolerance: plan.tolerance,
        minCommitted: plan.minCommitted[block.name] ?? 0,
      };
      for await (const patches of invert(stage, x, D, guide, guidanceWeights(guide, T), windows)) {
        calls++;
        const now = performance.now();
        if (onProgress && (now - lastEvent >= EVENT_INTERVAL || patches === T)) {
          lastEvent = now;
          const fraction = (blockIndex + patches / T) / blocks.length;
          const seconds = (now - start) / 1000;
          const image = unpatchify(toBlockOrder(x, D, block.permutation), this.spec.image);
          onProgress({
            kind: "progress", block: block.name, blockIndex, patches, numPatches: T, fraction,
            seconds, secondsLeft: (seconds * (1 - fraction)) / fraction,
            preview: this.pixels(previewUint8(image)),
          });
        }
        await this.breathe(signal);
      }
      checkFinite(x, D, block, "generation");
      state = toBlockOrder(x, D, block.permutation);
    }
    return { patches: state, calls };
  }

  private async latentOf(image: Float32Array, label: number | null, signal?: AbortSignal) {
    const row = this.checkLabel(label);
    let logdet = 0;
    let patches = patchify(image, this.spec.image);
    for await (const encoded of this.encodeBlocks(patches, row, signal)) {
      logdet -= encoded.xa.reduce((sum, value) => sum + value, 0) / encoded.xa.length;
      patches = toBlockOrder(encoded.z, this.spec.image.patchDim, encoded.block.permutation);
    }
    return { z: patches, logdet };
  }

  /** [T, D] patches through the blocks from the image to the latent. */
  private async *encodeBlocks(
    patches: Float32Array, label: number | null, signal?: AbortSignal,
  ): AsyncGenerator<EncodedBlock, void, void> {
    const { patchDim: D } = this.spec.image;
    for (const block of arBlocks(this.spec).toReversed()) {
      await this.breathe(signal);
      const x = toBlockOrder(patches, D, block.permutation);
      const { xa, xb } = await this.affine(block, label, x);
      const z = x.map((value, i) => Math.fround(value - xb[i]) * Math.fround(Math.exp(-xa[i])));
      checkFinite(z, D, block, "encoding");
      yield { block, x, z, xa };
      patches = toBlockOrder(z, D, block.permutation);
    }
  }

  /** (xa, xb) of all patches, [T, D]; row 0 is zero. */
  private async affine(block: ARBlock, label: number | null, x: Float32Array) {
    const { numPatches: T, patchDim: D } = this.spec.image;
    const xa = new Float32Array(x.length);
    const xb = new Float32Array(x.length);
    if (T > 1) {
      const stage = await this.engine.stage(block, label, NO_GUIDANCE);
      const { data, stride, offsetA, offsetB } = await stage.step(x.subarray(0, x.length - D), 0);
      for (let t = 1; t < T; t++) {
        const row = (t - 1) * stride;
        if (offsetA !== null) xa.set(data.subarray(row + offsetA, row + offsetA + D), t * D);
        xb.set(data.subarray(row + offsetB, row + offsetB + D), t * D);
      }
    }
    return { xa, xb };
  }

  /** The score step x + sigma^2 grad log p(x) on [T, D] patches; see runtime/denoise.py. */
  private async denoise(patches: Float32Array, label: number | null, signal?: AbortSignal): Promise<Float32Array> {
    const { patchDim: D } = this.spec.image;
    const encoded: EncodedBlock[] = [];
    for await (const step of this.encodeBlocks(patches, label, signal)) encoded.push(step);
    const last = encoded[encoded.length - 1];
    let grad = toBlockOrder(last.z, D, last.block.permutation); // of sum(z^2) / 2
    for (const step of encoded.reverse()) {
      await this.breathe(signal);
      grad = await this.throughBlock(step, label, toBlockOrder(grad, D, step.block.permutation));
      checkFinite(grad, D, step.block, "denoising");
      grad = toBlockOrder(grad, D, step.block.permutation);
    }
    const rate = Math.fround((this.spec.trainingNoise.std ?? 0) ** 2);
    return patches.map((value, i) => value - Math.fround(rate * grad[i]));
  }

  /** [T, D] gradient of the summed loss with respect to the block's input. */
  private async throughBlock({ block, x, z, xa }: EncodedBlock, label: number | null, gradZ: Float32Array): Promise<Float32Array> {
    const { patchDim: D } = this.spec.image;
    const direct = gradZ.map((value, i) => value * Math.fround(Math.exp(-xa[i])));
    // The parameters of patch t come from the network's output at patch t - 1: hence the shift.
    const gradA = new Float32Array(x.length);
    const gradB = new Float32Array(x.length);
    for (let i = D; i < x.length; i++) {
      gradA[i - D] = 1 - Math.fround(gradZ[i] * z[i]);
      gradB[i - D] = -direct[i];
    }
    const network = await this.engine.vjp(block, label, x, gradA, gradB);
    return direct.map((value, i) => value + network[i]);
  }

  private recipe(request: DecodeRequest, plan: Plan, seed: bigint | null, z: Float32Array): Recipe {
    const { bundle } = this.engine;
    const { scale, what, annealed, attnTemp } = guidanceOf(request);
    return {
      flowshipVersion: VERSION,
      bundle: bundle.manifest.name,
      bundleSha256: bundle.sha256,
      engine: this.info.name,
      engineVersion: this.info.version,
      // Python's word for it, so that its `generate --like` makes the picture again.
      device: this.info.device === "wasm" ? "cpu" : this.info.device,
      precision: this.info.precision,
      planSha256: planSha256(plan),
      seeds: [seed ?? 0n],
      labels: [request.label ?? null],
      guidance: scale,
      guideWhat: what,
      annealedGuidance: annealed,
      attnTemp,
      denoise: request.denoise ?? false,
      noise: seed === null ? this.noiseHash(request, z) : PHILOX_NOISE,
      columns: null,
      plan,
      between: null,
    };
  }

  /** sha256 of little-endian float32 standard normal noise, which recipes name. */
  private noiseHash({ latent, input }: DecodeRequest, z: Float32Array): string {
    const noise = input === "noise"
      ? latent : z.map((value, i) => value / Math.fround(Math.sqrt(this.variances[i])));
    const bytes = new DataView(new ArrayBuffer(4 * noise.length));
    noise.forEach((value, i) => bytes.setFloat32(4 * i, value, true));
    return sha256(new Uint8Array(bytes.buffer));
  }

  private checkLabel(label: number | null): number | null {
    const count = this.spec.numClasses;
    if (label === null || count === 0) return null; // as in Python: such a model ignores labels
    if (!Number.isInteger(label) || label < 0 || label >= count) {
      throw usageError(`there is no class ${label}: this model has the classes 0 to ${count - 1}`);
    }
    return label;
  }

  private checkLatent(latent: Float32Array, input: "z" | "noise"): Float32Array {
    const { numPatches: T, patchDim: D } = this.spec.image;
    if (latent.length !== T * D) {
      throw usageError(`the latent has ${latent.length} values, expected ${T} x ${D}`);
    }
    if (!latent.every(Number.isFinite)) throw usageError("the latent holds NaN or infinity");
    if (input === "z") return latent.slice();
    return latent.map((value, i) => value * Math.fround(Math.sqrt(this.variances[i])));
  }

  /** Prepared pixels to [C, H, W] in [-1, 1]. */
  private floats({ data, channels }: Pixels): Float32Array {
    return fromUint8(separate(Uint8Array.from(data), channels));
  }

  private pixels(levels: Uint8Array): Pixels {
    const { imgSize, inChannels } = this.spec.image;
    const channels = inChannels as 1 | 3;
    return { width: imgSize, height: imgSize, channels, data: interleave(levels, channels) };
  }
}

export function guidanceOf(request: SamplingOptions): Guidance {
  const { guidance: scale = 0, guideWhat: what = "ab", annealed = false, attnTemp = 1 } = request;
  return { scale, what, annealed, attnTemp };
}

function checkFinite(x: Float32Array, patchDim: number, block: ARBlock, what: string): void {
  const bad = x.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return;
  throw new FlowshipError(
    "nonfinite",
    `${what} gave NaN or infinity in ${block.name} at patch ${Math.floor(bad / patchDim)} of ` +
      `${x.length / patchDim} (in the block's order): try another seed, a smaller guidance or the ` +
      "precision fp32",
  );
}

/** After the messages that wait now (a timer would be slowed down to 4 ms). */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
