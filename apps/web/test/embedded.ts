/** The embedded bundle opened with onnxruntime-web in node. */

import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import * as ort from "onnxruntime-web/wasm";
import { Bundle, type FileSource } from "../src/core/bundle";
import { Flow } from "../src/engine/flow";
import { type Ort, OrtEngine } from "../src/engine/ort_engine";

export const EMBEDDED = resolve(import.meta.dirname, "../../../runtime/embedded/fashion-mnist.flowship");
const DIST = resolve(import.meta.dirname, "../node_modules/onnxruntime-web/dist");

export const diskSource: FileSource = {
  read: async (path) => new Uint8Array(await readFile(join(EMBEDDED, path))),
};

export async function openEmbedded(): Promise<Flow> {
  ort.env.wasm.wasmPaths = pathToFileURL(DIST).href + "/";
  ort.env.wasm.numThreads = 1;
  const bundle = await Bundle.open(diskSource);
  const engine = new OrtEngine(ort as unknown as Ort, bundle, "fp32", "wasm");
  const version = "onnxruntime-web 1.30.0";
  return Flow.open(engine, { name: "onnx", version, device: "wasm", precision: "fp32", threads: 1 });
}
