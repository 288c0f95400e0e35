/** Vite plugin: builds src/sw/sw.ts to sw.js at the root of the app and tells it the files to keep. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import type { Plugin } from "vite";

const WORKER = "sw.js";
// The build of ONNX Runtime for WebGPU: 27 MB that only those load who choose it.
const ON_DEMAND = /^assets\/.*(asyncify|webgpu)/;

/**
 * @param others Files that the host adds beside the built ones: path in the app to path on disk.
 */
export function serviceWorker(others: () => Record<string, string> = () => ({})): Plugin {
  let folder = "dist";
  return {
    name: "flowship-service-worker",
    apply: "build",
    enforce: "post",
    configResolved(config) {
      folder = resolve(config.root, config.build.outDir);
    },
    buildStart() {
      this.emitFile({ type: "chunk", id: join(import.meta.dirname, "src/sw/sw.ts"), fileName: WORKER });
    },
    closeBundle() {
      const files: Record<string, string> = {};
      const add = (path: string, file: string) => {
        files[path] = createHash("sha256").update(readFileSync(file)).digest("hex").slice(0, 16);
      };
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
        const file = join(entry.parentPath, entry.name);
        const path = relative(folder, file).split(sep).join("/");
        if (entry.isFile() && path !== WORKER) add(path, file);
      }
      for (const [path, file] of Object.entries(others())) add(path, file);
      const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
      const script = join(folder, WORKER);
      let text = readFileSync(script, "utf8");
      text = withList(text, "__FLOWSHIP_FILES__", sorted);
      text = withList(text, "__FLOWSHIP_ON_DEMAND__", Object.keys(sorted).filter((path) => ON_DEMAND.test(path)));
      writeFileSync(script, text);
    },
  };
}

/** The script with JSON as a string literal in the place of the mark. */
function withList(script: string, mark: string, value: unknown): string {
  const literal = JSON.stringify(JSON.stringify(value));
  // The quotes around the mark are the minifier's choice.
  const found = script.replace(new RegExp(`(["'\`])${mark}\\1`), () => literal);
  if (found === script) throw new Error(`${WORKER} has no place for ${mark}`);
  return found;
}
