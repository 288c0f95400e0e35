/** Requests as they are seen by the page and its workers, and how these tell the page of them. */

export interface Seen {
  readonly url: string;
  readonly from:
    | "page" | "engine" | "service worker, from its cache" | "service worker, from the server"
    | "browser, for the service worker";
  readonly time: number;
  /** The Content-Security-Policy stopped it. */
  readonly blocked?: boolean;
}

export const REQUEST_CHANNEL = "flowship-requests";

/** Tells of every request of this page or worker, those before it too, and of those that were stopped. */
export function observeRequests(from: Seen["from"], tell: (found: Seen) => void): void {
  new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries()) {
      tell({ url: name, from, time: performance.timeOrigin + startTime });
    }
  }).observe({ type: "resource", buffered: true });
  // A page's violations come to its document, a worker's to its global scope.
  (globalThis.document ?? globalThis).addEventListener("securitypolicyviolation", (event) => {
    const { blockedURI } = event as SecurityPolicyViolationEvent;
    tell({ url: blockedURI, from, time: Date.now(), blocked: true });
  });
}
