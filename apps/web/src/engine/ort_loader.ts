/** Loads ONNX Runtime Web from the app's own files; WebGPU's larger build only when it is asked for. */

import glue from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import binary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import gpuGlue from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import gpuBinary from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import { FlowshipError } from "../core/errors";
import type { Device, Ort } from "./ort_engine";

export async function loadOrt(device: Device, threads: number): Promise<Ort> {
  if (device === "webgpu") {
    // lib.dom of this TypeScript has no WebGPU.
    const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
    if (!(await gpu?.requestAdapter())) {
      throw new FlowshipError("engine", "this browser offers no WebGPU: choose the device wasm");
    }
  }
  const ort: Ort = device === "webgpu"
    ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const paths = device === "webgpu" ? { mjs: gpuGlue, wasm: gpuBinary } : { mjs: glue, wasm: binary };
  ort.env.wasm.wasmPaths = {
    mjs: new URL(paths.mjs, import.meta.url).href, wasm: new URL(paths.wasm, import.meta.url).href,
  };
  ort.env.wasm.numThreads = threads; // the first session decides for all
  ort.env.logLevel = "error";
  return ort;
}
