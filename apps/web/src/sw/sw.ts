/**
 * Service worker: keeps the files of the app, serves them from there with cross-origin isolation,
 * and tells the page about each request. Large files that few need are kept once they were used.
 *
 * Files are kept by their hash, so that an update loads only what changed, and an open page of the
 * older version keeps its files until the newer one takes over.
 */

import type { Seen } from "../core/seen"; // types only: a service worker is one script

const worker = self as unknown as ServiceWorkerGlobalScope;
/** Path from this script, and first 16 digits of its sha256: written by the build. */
const FILES: Readonly<Record<string, string>> = JSON.parse("__FLOWSHIP_FILES__") as Record<string, string>;
/** Of those, what is not loaded before somebody asks for it. */
const ON_DEMAND: ReadonlySet<string> = new Set(JSON.parse("__FLOWSHIP_ON_DEMAND__") as string[]);
const CACHE = "flowship-files";
// wasm threads need cross-origin isolation; plain static hosts send none of these.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};
const channel = new BroadcastChannel("flowship-requests");

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("message", (event) => {
  if (event.data === "skip waiting") void worker.skipWaiting();
});
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (url.origin !== location.origin || request.method !== "GET") return;
  const path = pathOf(url);
  if (path !== null) event.respondWith(answer(path, request));
});

/** The file of an address, or null: the server's API and what is not ours go to the network. */
function pathOf(url: URL): string | null {
  const scope = new URL(worker.registration.scope).pathname;
  if (!url.pathname.startsWith(scope)) return null;
  const path = decodeURIComponent(url.pathname.slice(scope.length)) || "index.html";
  return Object.hasOwn(FILES, path) ? path : null;
}

function keyOf(path: string): string {
  return new URL(`${encodeURI(path)}?sha256=${FILES[path]}`, worker.registration.scope).href;
}

async function install(): Promise<void> {
  const cache = await caches.open(CACHE);
  for (const path of Object.keys(FILES)) {
    if (ON_DEMAND.has(path) || (await cache.match(keyOf(path)))) continue;
    await cache.put(keyOf(path), await load(path));
  }
}

async function activate(): Promise<void> {
  const cache = await caches.open(CACHE);
  const wanted = new Set(Object.keys(FILES).map(keyOf));
  for (const request of await cache.keys()) {
    if (!wanted.has(request.url)) await cache.delete(request);
  }
  await worker.clients.claim();
}

/** From the server, refused if it is not the file of this version.
 * @throws Error the server is away or has another version: the installation is tried again later. */
async function load(path: string): Promise<Response> {
  const url = new URL(encodeURI(path), worker.registration.scope).href;
  const response = await fetch(url, { cache: "no-cache" });
  tell(url, "service worker, from the server");
  if (!response.ok) throw new Error(`${url}: status ${response.status}`);
  const bytes = await response.arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = [...hash.slice(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== FILES[path]) throw new Error(`${url} is not the file of this version`);
  return new Response(bytes, { headers: isolated(response.headers) });
}

async function answer(path: string, request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const found = await cache.match(keyOf(path));
  if (found) {
    tell(request.url, "service worker, from its cache");
    return found;
  }
  // Not asked for before, or the browser made room.
  const loaded = await load(path);
  await cache.put(keyOf(path), loaded.clone());
  return loaded;
}

function isolated(headers: Headers): Headers {
  const found = new Headers(headers);
  for (const [name, value] of Object.entries(ISOLATION)) found.set(name, value);
  return found;
}

function tell(url: string, from: Seen["from"]): void {
  const seen: Seen = { url, from, time: Date.now() };
  channel.postMessage(seen);
}
