/** Bundles on disk opened with onnxruntime-web in node. */

import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import * as ort from "onnxruntime-web/wasm";
import { Bundle, type FileSource } from "../src/core/bundle";
import { Flow } from "../src/engine/flow";
import { type Ort, OrtEngine } from "../src/engine/ort_engine";

export const EMBEDDED = resolve(import.meta.dirname, "../../../runtime/embedded/fashion-mnist.flowship");
const DIST = resolve(import.meta.dirname, "../node_modules/onnxruntime-web/dist");

export type Feeds = Record<string, ort.Tensor>;

function watched(seen: (feeds: Feeds) => void): Ort {
  const create = async (...words: Parameters<typeof ort.InferenceSession.create>) => {
    const session = await ort.InferenceSession.create(...words);
    const { inputNames, outputNames } = session;
    const run = (feeds: Feeds) => {
      seen(feeds);
      return session.run(feeds);
    };
    return { inputNames, outputNames, run, release: () => session.release() };
  };
  return { ...ort, InferenceSession: { create } } as unknown as Ort;
}

const sourceOf = (folder: string): FileSource => ({
  read: async (path) => new Uint8Array(await readFile(join(folder, path))),
});

export const diskSource = sourceOf(EMBEDDED);

export const openEmbedded = (): Promise<Flow> => openBundle(EMBEDDED, "fp32");

/** @param seen Is told of what every call of a graph is given. */
export async function openBundle(folder: string, precision: string, seen?: (feeds: Feeds) => void): Promise<Flow> {
  ort.env.wasm.wasmPaths = pathToFileURL(DIST).href + "/";
  ort.env.wasm.numThreads = 1;
  const bundle = await Bundle.open(sourceOf(folder));
  const engine = new OrtEngine(seen ? watched(seen) : ort as unknown as Ort, bundle, precision, "wasm");
  const version = "onnxruntime-web 1.30.0";
  return Flow.open(engine, { name: "onnx", version, device: "wasm", precision, threads: 1 });
}
