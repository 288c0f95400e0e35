/** manifest.json: what a bundle holds, checked against itself before a file of it is touched. */

import { bundleError, FlowshipError } from "./errors";
import type { Json } from "./json";
import { quote } from "./json";
import { decodeGolden, decodeQuality, engineName } from "./measured";
import { parseAs } from "./plan";
import { checkDistinct, checkRelative } from "./safe_paths";
import { type Decoder, integer, list, map, oneOf, orNull, record, text } from "./schema";
import { isSha256 } from "./sha256";
import { type ARBlock, arBlocks, decodeSpec, type FlowSpec } from "./spec";

export const MANIFEST = "manifest.json";
export const SCHEMA_VERSION = 1;
export const MAX_MANIFEST_BYTES = 16 << 20;
// Of one block and one picture: a browser has 4 GiB of WebAssembly memory for everything.
const MAX_CACHE_BYTES = 64 * 2 ** 30;
const MIN_BITS_PER_WEIGHT = 2; // no precision has fewer

export interface FileEntry {
  readonly bytes: number;
  readonly sha256: string;
}

/** A raw little-endian float32 array for host code: "var", "block0.pos", "block0.classes", ... */
export interface ArrayEntry {
  readonly path: string;
  readonly shape: readonly number[];
}

/** One graph of one stage for one engine; see runtime/manifest.py. */
export interface Artifact {
  readonly engine: "onnx" | "executorch" | "coreml";
  readonly precision: string;
  readonly role: "step" | "vjp";
  readonly stage: string;
  readonly form: string;
  readonly branches: number;
  /** Window lengths it takes; empty means every length from 1 to T. */
  readonly windows: readonly number[];
  readonly path: string;
  readonly files: readonly string[];
}

export interface Manifest {
  readonly flowshipVersion: string;
  readonly name: string;
  readonly spec: FlowSpec;
  readonly source: {
    readonly file: string;
    readonly licence: string | null;
    readonly numParameters: number | null;
  };
  readonly arrays: ReadonlyMap<string, ArrayEntry>;
  readonly files: ReadonlyMap<string, FileEntry>;
  readonly artifacts: readonly Artifact[];
  /** Paths of the pictures that `flowship verify` makes again. */
  readonly goldenPictures: readonly string[];
}

/** Parse and validate.
 * @throws FlowshipError (bundle) not JSON, not this schema, a wrong value, unsafe paths, arrays or
 *   artifacts that do not fit the FlowSpec, or sizes that cannot be true. */
export function loadManifest(content: string): Manifest {
  const data = parseAs(content, MANIFEST);
  checkVersion(data);
  const manifest = decodeManifest(data, MANIFEST);
  try {
    checkManifest(manifest);
  } catch (error) {
    if (error instanceof FlowshipError) throw bundleError(`${MANIFEST}: ${error.message}`);
    throw error;
  }
  return manifest;
}

/** Bytes of all declared files. */
export function bundleBytes(manifest: Manifest): number {
  return [...manifest.files.values()].reduce((sum, entry) => sum + entry.bytes, 0);
}

/** A block's step graph in a form that runs in browsers. */
export function stepArtifact(
  manifest: Manifest, precision: string, stage: string, branches: number,
): Artifact | undefined {
  return manifest.artifacts.find(
    (a) =>
      a.engine === "onnx" && a.precision === precision && a.role === "step" && a.stage === stage &&
      a.branches === branches && a.form.startsWith("gqa"),
  );
}

/** A block's graph for denoising. */
export function vjpArtifact(manifest: Manifest, precision: string, stage: string): Artifact | undefined {
  return manifest.artifacts.find(
    (a) => a.engine === "onnx" && a.precision === precision && a.role === "vjp" && a.stage === stage,
  );
}

/** @throws FlowshipError (engine) there is none. */
export function findArtifact(
  manifest: Manifest, precision: string, role: "step" | "vjp", stage: string, branches: number,
): Artifact {
  const found = role === "vjp"
    ? vjpArtifact(manifest, precision, stage) : stepArtifact(manifest, precision, stage, branches);
  if (!found) {
    const what = role === "vjp" ? "denoising" : `${branches}-branch step (form gqa)`;
    throw new FlowshipError(
      "engine",
      `the bundle has no ${what} graph of ${stage} for onnx ${precision}`,
    );
  }
  return found;
}

function checkVersion(data: Json): void {
  const isObject = data !== null && typeof data === "object" && !Array.isArray(data);
  const version = isObject ? data["schema_version"] : undefined;
  if (typeof version !== "bigint") {
    throw bundleError(`${MANIFEST}: schema_version is missing, this is not a flowship bundle`);
  }
  if (version > BigInt(SCHEMA_VERSION)) {
    throw bundleError(
      `${MANIFEST}: schema_version ${String(version).slice(0, 20)} is newer than ` +
        `${SCHEMA_VERSION}, the newest that this flowship reads: update flowship`,
    );
  }
}

const decodeFile: Decoder<FileEntry> = record((fields) => ({
  bytes: fields.get("bytes", integer),
  sha256: fields.get("sha256", text),
}));

const decodeArray: Decoder<ArrayEntry> = record((fields) => ({
  path: fields.get("path", text),
  shape: fields.get("shape", list(integer)),
}));

const decodeArtifact: Decoder<Artifact> = record((fields) => ({
  engine: fields.get("engine", engineName),
  precision: fields.get("precision", text),
  role: fields.get("role", oneOf("step", "vjp")),
  stage: fields.get("stage", text),
  form: fields.get("form", text),
  branches: fields.get("branches", integer),
  windows: fields.get("windows", list(integer)),
  path: fields.get("path", text),
  files: fields.get("files", list(text)),
}));

const decodeSource = record((fields) => {
  fields.get("sha256", text);
  return {
    file: fields.get("file", text),
    licence: fields.get("licence", orNull(text)),
    numParameters: fields.getOr("num_parameters", orNull(integer), null),
  };
});

const decodeManifest: Decoder<Manifest> = record((fields) => {
  fields.get("quality", list(decodeQuality));
  return {
    flowshipVersion: fields.get("flowship_version", text),
    name: fields.get("name", text),
    spec: fields.get("spec", decodeSpec),
    source: fields.get("source", decodeSource),
    arrays: fields.get("arrays", map(decodeArray)),
    files: fields.get("files", map(decodeFile)),
    artifacts: fields.get("artifacts", list(decodeArtifact)),
    goldenPictures: fields.get("golden", decodeGolden),
  };
});

function checkManifest(manifest: Manifest): void {
  checkName(manifest.name);
  checkFiles(manifest);
  checkArrays(manifest);
  for (const block of arBlocks(manifest.spec)) checkCache(manifest.spec, block);
  manifest.artifacts.forEach((artifact, i) => checkArtifact(manifest, `artifacts[${i}]`, artifact));
  for (const path of manifest.goldenPictures) declaredBytes(manifest, "golden picture", path);
}

/** It is shown, and becomes part of file names. */
function checkName(name: string): void {
  const shown = quote(name.slice(0, 80));
  const length = [...name].length;
  if (length < 1 || length > 100 || name.startsWith(".") || /[/\\:*?"<>|]/.test(name)) {
    throw bundleError(`name: ${shown} cannot be part of a file name`);
  }
  // As Python's isprintable(): no control, format, unassigned or separator characters but the space.
  if (/[\p{C}\p{Z}]/u.test(name.replaceAll(" ", ""))) {
    throw bundleError(`name: ${shown} has characters that cannot be printed`);
  }
}

function checkFiles(manifest: Manifest): void {
  checkDistinct(manifest.files.keys());
  for (const [path, entry] of manifest.files) {
    if (path.toLowerCase() === MANIFEST) {
      throw bundleError(`files: ${MANIFEST} cannot declare itself`);
    }
    checkRelative(path);
    if (entry.bytes < 0 || !isSha256(entry.sha256)) {
      throw bundleError(
        `files: ${path} has ${entry.bytes} bytes and the sha256 ` +
          `${quote(entry.sha256.slice(0, 80))}, expected a size and 64 hexadecimal digits`,
      );
    }
  }
}

function declaredBytes(manifest: Manifest, what: string, path: string): number {
  checkRelative(path);
  const entry = manifest.files.get(path);
  if (!entry) throw bundleError(`${what}: ${path} is not declared in files`);
  return entry.bytes;
}

/** Name and shape of every array that the host code of a model needs. */
function arrayShapes(spec: FlowSpec): Map<string, readonly number[]> {
  const { numPatches: T, patchDim: D } = spec.image;
  const shapes = new Map<string, readonly number[]>();
  if (spec.latents.some((latent) => latent.prior === "scaled_normal")) shapes.set("var", [T, D]);
  for (const block of arBlocks(spec)) {
    shapes.set(`${block.name}.pos`, [T, block.channels]);
    shapes.set(`${block.name}.classes`, [spec.numClasses + 1, block.channels]);
  }
  return shapes;
}

function checkArrays(manifest: Manifest): void {
  for (const [name, expected] of arrayShapes(manifest.spec)) {
    const shape = manifest.arrays.get(name)?.shape;
    if (!shape) throw bundleError(`arrays: ${name} [${expected.join(", ")}] is missing`);
    if (shape.join() !== expected.join()) {
      throw bundleError(
        `arrays: ${name} has the shape [${shape.slice(0, 8).join(", ")}], the model needs ` +
          `[${expected.join(", ")}]`,
      );
    }
  }
  for (const [name, array] of manifest.arrays) {
    const shown = name.slice(0, 80);
    const bytes = declaredBytes(manifest, `arrays: ${shown}`, array.path);
    const shape = array.shape;
    if (shape.length > 8 || !shape.every((size) => size > 0 && size < 2 ** 32)) {
      throw bundleError(`arrays: ${shown} has the shape [${shape.slice(0, 8).join(", ")}]`);
    }
    const expected = shape.reduce((a, b) => a * b, 4);
    if (bytes !== expected) {
      throw bundleError(
        `arrays: ${shown} [${shape.join(", ")}] needs ${commas(expected)} bytes as float32, ` +
          `${array.path} has ${commas(bytes)}`,
      );
    }
  }
}

/** Keys and values of one block and one picture in float32. */
export function cacheBytes(spec: FlowSpec, block: ARBlock): number {
  return 2 * block.numLayers * spec.image.numPatches * block.channels * 4;
}

function checkCache(spec: FlowSpec, block: ARBlock): void {
  const bytes = cacheBytes(spec, block);
  if (bytes > MAX_CACHE_BYTES) {
    throw bundleError(
      `spec: ${block.name} would need a KV cache of ${commas(Math.round(bytes / 2 ** 30))} GiB, ` +
        `more than the ${MAX_CACHE_BYTES / 2 ** 30} GiB that flowship believes`,
    );
  }
}

function checkArtifact(manifest: Manifest, where: string, artifact: Artifact): void {
  const stage = manifest.spec.stages.find(({ name }) => name === artifact.stage);
  if (!stage) {
    const shown = quote(artifact.stage.slice(0, 80));
    throw bundleError(`${where}.stage: the model has no stage ${shown}`);
  }
  if (artifact.branches !== 1 && artifact.branches !== 2) {
    throw bundleError(`${where}.branches: expected 1 or 2, got ${artifact.branches}`);
  }
  const T = manifest.spec.image.numPatches;
  if (!artifact.windows.every((window) => window >= 1 && window <= T)) {
    const shown = artifact.windows.slice(0, 8).join(", ");
    throw bundleError(`${where}.windows: expected 1 to ${T}, got [${shown}]`);
  }
  const sizes = new Map(
    artifact.files.map((path) => [path, declaredBytes(manifest, `${where}.files`, path)]),
  );
  checkRelative(artifact.path);
  const inside = artifact.files.some((path) => path.startsWith(`${artifact.path}/`));
  if (!artifact.files.includes(artifact.path) && !inside) {
    throw bundleError(
      `${where}.path: ${artifact.path} is neither one of its files nor a folder of them`,
    );
  }
  if (stage.kind !== "ar_block") return;
  const bytes = [...sizes.values()].reduce((a, b) => a + b, 0);
  const expected = minWeightBytes(manifest.spec, stage);
  if (bytes < expected) {
    throw bundleError(
      `${where}: its files have ${commas(bytes)} bytes, too few for the weights of ` +
        `${stage.numLayers} layers of ${stage.channels} channels (${commas(expected)} at least)`,
    );
  }
}

/** A lower bound of a block's weights on disk: attention and projections, no MLP. */
function minWeightBytes(spec: FlowSpec, block: ARBlock): number {
  const attention = 4 * block.channels ** 2 * block.numLayers;
  const projections = 2 * block.channels * spec.image.patchDim;
  return Math.floor(((attention + projections) * MIN_BITS_PER_WEIGHT) / 8);
}

/** 1,234,567 in every locale. */
export function commas(value: number): string {
  return value.toLocaleString("en-US");
}
