import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve, sep } from "node:path";
import { defineConfig, type Plugin } from "vite";
import { serviceWorker } from "./sw_plugin.ts";

const EMBEDDED = resolve(import.meta.dirname, "../../runtime/embedded/fashion-mnist.flowship");

const PACKAGE = readFileSync(resolve(import.meta.dirname, "../../runtime/_toplevel.py"), "utf8");
const VERSION = /__version__ = "(.+)"/.exec(PACKAGE)?.[1];

// Threads of WebAssembly need a cross-origin isolated page.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** Path in the app to path on disk. */
function bundleFiles(): Record<string, string> {
  const entries = readdirSync(EMBEDDED, { recursive: true, withFileTypes: true });
  const files = entries.filter((e) => e.isFile()).map((e) => join(e.parentPath, e.name));
  const inApp = (file: string) => `bundle/${file.slice(EMBEDDED.length + 1).split(sep).join("/")}`;
  return Object.fromEntries(files.map((file) => [inApp(file), file]));
}

/**
 * Serves the package's embedded bundle at `bundle/`. The built app in dist/ leaves it out, because
 * the Python package has it already and `flowship serve` answers for it; `--mode site` copies it, so
 * that the folder is all that a static host needs.
 */
function embeddedBundle(copy: boolean): Plugin {
  const serve = (url: string | undefined): string | null => {
    const path = new URL(url ?? "/", "http://host").pathname;
    if (!path.startsWith("/bundle/")) return null;
    const file = join(EMBEDDED, decodeURIComponent(path.slice("/bundle/".length)));
    return file.startsWith(EMBEDDED + sep) && existsSync(file) && statSync(file).isFile() ? file : null;
  };
  type Server = Parameters<Extract<NonNullable<Plugin["configurePreviewServer"]>, Function>>[0];
  const configure = (server: Pick<Server, "middlewares">) => {
    server.middlewares.use((request, response, next) => {
      const file = serve(request.url);
      if (!file) return next();
      for (const [name, value] of Object.entries(ISOLATION)) response.setHeader(name, value);
      response.setHeader("Content-Type", file.endsWith(".json") ? "application/json" : "application/octet-stream");
      createReadStream(file).pipe(response);
    });
  };
  return {
    name: "flowship-embedded-bundle",
    configureServer: configure,
    configurePreviewServer: configure,
    async generateBundle() {
      if (!copy) return;
      for (const [fileName, path] of Object.entries(bundleFiles())) {
        this.emitFile({ type: "asset", fileName, source: await readFile(path) });
      }
    },
  };
}

export default defineConfig(({ mode }) => ({
  base: "./",
  // The service worker keeps the bundle too; in dist/ the server answers for it.
  plugins: [embeddedBundle(mode === "site"), serviceWorker(mode === "site" ? undefined : bundleFiles)],
  define: { __FLOWSHIP_VERSION__: JSON.stringify(VERSION) },
  resolve: {
    // The glue code of ONNX Runtime stays a file of its own: its threads start from that file.
    conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"],
  },
  optimizeDeps: { exclude: ["onnxruntime-web"] },
  worker: { format: "es" as const },
  server: { headers: ISOLATION },
  preview: { headers: ISOLATION },
  build: {
    outDir: mode === "site" ? "site" : "dist",
    target: "es2022",
    assetsInlineLimit: 0, // no data: URLs, so that the Content-Security-Policy can be strict
  },
  test: { include: ["test/**/*.test.ts"], environment: "node", testTimeout: 60_000 },
}));
