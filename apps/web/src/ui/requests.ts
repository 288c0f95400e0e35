/** Every request of this page, its workers and its service worker, for the privacy page. */

import { observeRequests, REQUEST_CHANNEL, type Seen } from "../core/seen";
import { RequestLog } from "./request_log";

export const requests = new RequestLog(globalThis.location?.origin ?? "");
const listeners = new Set<() => void>();

/** Starts listening; what was loaded before is reported too. */
export function watchRequests(): void {
  observeRequests("page", noteRequest);
  performance.setResourceTimingBufferSize(10_000);
  noteRequest({ url: location.origin + location.pathname, from: "page", time: performance.timeOrigin });
  new BroadcastChannel(REQUEST_CHANNEL).onmessage = ({ data }: MessageEvent<Seen>) => noteRequest(data);
}

/** One that no observer sees. */
export function noteRequest(found: Seen): void {
  requests.add(found);
  for (const tell of listeners) tell();
}

/** That something was sent; the request itself is seen without it. */
export function noteSent(url: string, bytes: number): void {
  requests.send(new URL(url, document.baseURI).href, bytes);
}

/** Calls back after each new request. */
export function onRequest(listener: () => void): void {
  listeners.add(listener);
}
