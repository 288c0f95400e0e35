/** FlowSpec: what a normalizing flow is; the JSON of runtime/spec.py. */

import { bundleError } from "./errors";
import { type Decoder, type Fields, flag, integer, list, number, oneOf, orNull, record, text } from "./schema";

// Nothing that is published comes near these; they keep a hostile manifest from asking for memory.
export const MAX_PATCHES = 2 ** 16;
const MAX_CHANNELS = 2 ** 15;
const MAX_LAYERS = 256;
const MAX_STAGES = 256;
const MAX_IMG_SIZE = 2 ** 13;
const MAX_CLASSES = 2 ** 20;

export interface ImageSpec {
  /** Height and width in pixels; patches are numbered row by row. */
  readonly imgSize: number;
  /** 1 is grey, 3 is RGB. */
  readonly inChannels: number;
  readonly patchSize: number;
  /** T = (imgSize / patchSize)^2. */
  readonly numPatches: number;
  /** D: values in a patch, in the order channel, row, column. */
  readonly patchDim: number;
}

export interface LatentSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly prior: "standard_normal" | "scaled_normal";
}

/** An autoregressive block: each patch is an affine function of the patches before it. */
export interface ARBlock {
  readonly kind: "ar_block";
  readonly name: string;
  readonly channels: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly permutation: "identity" | "flip";
  readonly shift: "copy_first" | "sos";
  readonly scale: "exp" | "none" | "softplus";
  readonly guided: boolean;
}

/** A stage of another family, which this program does not run. */
export interface OtherStage {
  readonly kind: "parallel" | "row_loop";
  readonly name: string;
}

export interface TrainingNoise {
  readonly kind: "gaussian" | "uniform" | "unknown";
  /** Standard deviation on the [-1, 1] scale, of Gaussian noise. */
  readonly std: number | null;
}

export interface FlowSpec {
  readonly family: string;
  readonly image: ImageSpec;
  readonly latents: readonly LatentSpec[];
  /** In the order of generation, latent to image. */
  readonly stages: readonly (ARBlock | OtherStage)[];
  /** 0 for a model without class labels. */
  readonly numClasses: number;
  readonly classNames: readonly string[];
  readonly guidance: "linear_ab" | null;
  readonly denoise: "tweedie" | null;
  readonly trainingNoise: TrainingNoise;
}

export function arBlocks(spec: FlowSpec): readonly ARBlock[] {
  return spec.stages.filter((stage) => stage.kind === "ar_block");
}

function inRange(fields: Fields, name: string, value: number, high: number): void {
  fields.require(value >= 1 && value <= high, `${name} is ${value}, expected 1 to ${high}`);
}

const decodeImage = record((fields): ImageSpec => {
  const imgSize = fields.get("img_size", integer);
  const inChannels = fields.get("in_channels", integer);
  const patchSize = fields.get("patch_size", integer);
  const numPatches = fields.get("num_patches", integer);
  fields.getOr("patch_order", oneOf("c_ph_pw"), "c_ph_pw");
  fields.getOr("value_map", oneOf("pm1"), "pm1");
  fields.getOr("rule_8bit", oneOf("clip_round"), "clip_round");
  inRange(fields, "img_size", imgSize, MAX_IMG_SIZE);
  inRange(fields, "in_channels", inChannels, 64);
  inRange(fields, "patch_size", patchSize, imgSize);
  inRange(fields, "num_patches", numPatches, MAX_PATCHES);
  fields.require(
    imgSize % patchSize === 0 && (imgSize / patchSize) ** 2 === numPatches,
    `img_size ${imgSize} in patches of ${patchSize} are not num_patches ${numPatches}`,
  );
  return { imgSize, inChannels, patchSize, numPatches, patchDim: inChannels * patchSize ** 2 };
});

const decodeLatent = record((fields): LatentSpec => {
  const shape = fields.get("shape", list(integer));
  inRange(fields, "number of latent axes", shape.length, 8);
  for (const size of shape) inRange(fields, "latent axis", size, 2 ** 32);
  return {
    name: fields.get("name", text),
    shape,
    prior: fields.get("prior", oneOf("standard_normal", "scaled_normal")),
  };
});

const decodeBlock = record((fields): ARBlock => {
  const block: ARBlock = {
    kind: "ar_block",
    name: fields.get("name", text),
    channels: fields.get("channels", integer),
    numLayers: fields.get("num_layers", integer),
    numHeads: fields.get("num_heads", integer),
    headDim: fields.get("head_dim", integer),
    permutation: fields.get("permutation", oneOf("identity", "flip")),
    shift: fields.getOr("shift", oneOf("copy_first", "sos"), "copy_first"),
    scale: fields.getOr("scale", oneOf("exp", "none", "softplus"), "exp"),
    guided: fields.getOr("guided", flag, true),
  };
  fields.get("block", integer);
  inRange(fields, "channels", block.channels, MAX_CHANNELS);
  inRange(fields, "num_layers", block.numLayers, MAX_LAYERS);
  inRange(fields, "num_heads", block.numHeads, block.channels);
  fields.require(
    block.numHeads * block.headDim === block.channels,
    `${block.numHeads} heads of ${block.headDim} are not ${block.channels} channels`,
  );
  return block;
});

const decodeStage: Decoder<ARBlock | OtherStage> = (value, path) => {
  const decodeKind = record((fields) =>
    fields.get("kind", oneOf("ar_block", "parallel", "row_loop")),
  );
  const kind = decodeKind(value, path);
  if (kind === "ar_block") return decodeBlock(value, path);
  return record((fields): OtherStage => ({ kind, name: fields.get("name", text) }))(value, path);
};

const decodeConditioning = record((fields) => {
  const kind = fields.get("kind", oneOf("class", "text"));
  if (kind === "text") {
    throw bundleError(`${fields.path}: models with text prompts do not run in the browser yet`);
  }
  const numClasses = fields.get("num_classes", integer);
  const classNames = fields.getOr("class_names", list(text), []);
  fields.getOr("null", oneOf("mean"), "mean");
  inRange(fields, "num_classes", numClasses, MAX_CLASSES);
  fields.require(
    classNames.length === 0 || classNames.length === numClasses,
    `${classNames.length} class names for ${numClasses} classes`,
  );
  return { numClasses, classNames };
});

const decodeNoise = record((fields): TrainingNoise => {
  const kind = fields.get("kind", oneOf("gaussian", "uniform", "unknown"));
  const std = fields.getOr("std", orNull(number), null);
  fields.require(
    (kind === "gaussian") === (std !== null),
    `training noise '${kind}' with std ${std}`,
  );
  fields.require(std === null || std > 0, `training noise with std ${std}, expected more than 0`);
  return { kind, std };
});

export const decodeSpec = record((fields): FlowSpec => {
  const conditioning = fields.get("conditioning", orNull(decodeConditioning));
  const spec: FlowSpec = {
    family: fields.get("family", text),
    image: fields.get("image", decodeImage),
    latents: fields.get("latents", list(decodeLatent)),
    stages: fields.get("stages", list(decodeStage)),
    numClasses: conditioning?.numClasses ?? 0,
    classNames: conditioning?.classNames ?? [],
    guidance: fields.get("guidance", orNull(oneOf("linear_ab"))),
    denoise: fields.get("denoise", orNull(oneOf("tweedie"))),
    trainingNoise: fields.get("training_noise", decodeNoise),
  };
  inRange(fields, "number of stages", spec.stages.length, MAX_STAGES);
  const names = new Set(spec.stages.map((stage) => stage.name));
  fields.require(names.size === spec.stages.length, "two stages have the same name");
  fields.require(
    !spec.denoise || spec.trainingNoise.kind === "gaussian",
    "denoising needs Gaussian training noise",
  );
  const dims = spec.image.numPatches * spec.image.patchDim;
  const latentDims = spec.latents.map((latent) => latent.shape.reduce((a, b) => a * b, 1));
  fields.require(
    latentDims.reduce((a, b) => a + b, 0) === dims,
    `the latents do not have the image's ${dims} dimensions`,
  );
  return spec;
});
