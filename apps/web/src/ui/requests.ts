/** Every request of this page, its workers and its service worker, for the privacy page. */

import { observeRequests, REQUEST_CHANNEL, type Seen } from "../core/seen";

const seen: Seen[] = [];
const blocked: string[] = [];
const listeners = new Set<() => void>();

/** Starts listening; what was loaded before is reported too. */
export function watchRequests(): void {
  observeRequests("page", add);
  performance.setResourceTimingBufferSize(10_000);
  add({ url: location.origin + location.pathname, from: "page", time: performance.timeOrigin });
  new BroadcastChannel(REQUEST_CHANNEL).onmessage = ({ data }: MessageEvent<Seen>) => add(data);
  document.addEventListener("securitypolicyviolation", (event) => {
    blocked.push(event.blockedURI);
    for (const tell of listeners) tell();
  });
}

export const requests = (): readonly Seen[] => seen;
export const blockedRequests = (): readonly string[] => blocked;

/** Those whose address is on another origin; blob: and data: stay within the page. */
export function foreignRequests(): Seen[] {
  return seen.filter(({ url }) => new URL(url, location.href).origin !== location.origin
    && !/^(blob|data):/.test(url));
}

/** Calls back after each new request. */
export function onRequest(listener: () => void): void {
  listeners.add(listener);
}

function add(found: Seen): void {
  seen.push(found);
  for (const tell of listeners) tell();
}
