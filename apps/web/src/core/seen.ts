/** Requests as they are seen by the page and its workers, and how these tell the page of them. */

export interface Seen {
  readonly url: string;
  readonly from: "page" | "engine" | "service worker, from its cache" | "service worker, from the server";
  readonly time: number;
}

export const REQUEST_CHANNEL = "flowship-requests";

/** Tells of every request of this page or worker, those before it too. */
export function observeRequests(from: Seen["from"], tell: (found: Seen) => void): void {
  new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries()) {
      tell({ url: name, from, time: performance.timeOrigin + startTime });
    }
  }).observe({ type: "resource", buffered: true });
}
