/** What is known of the requests: each address with who asked, what was sent there and what was stopped. */

import type { Seen } from "../core/seen";

export interface Row {
  readonly url: string;
  readonly from: Seen["from"];
  readonly count: number;
  /** Of what was sent there; a question sends nothing. */
  readonly bytes: number;
  /** It did not leave: the Content-Security-Policy forbids it. */
  readonly blocked: boolean;
}

export class RequestLog {
  private readonly seen: Seen[] = [];
  private readonly stopped = new Map<string, Seen["from"]>();
  private readonly bytes = new Map<string, number>();

  /** @param origin Of the page; requests to it stay where the page came from. */
  constructor(private readonly origin: string) {}

  add(found: Seen): void {
    const url = found.url.replace(/#.*/, ""); // which browsers never send
    if (found.blocked) this.stopped.set(url, found.from);
    else this.seen.push({ ...found, url });
  }

  send(url: string, bytes: number): void {
    this.bytes.set(url, (this.bytes.get(url) ?? 0) + bytes);
  }

  /** That were made; those that were stopped are not among them. */
  get total(): number {
    return this.seen.filter(({ url }) => !this.stopped.has(url)).length;
  }

  /** To another origin; blob: and data: stay within the page. */
  get foreign(): number {
    return this.seen.filter(({ url }) => !this.stopped.has(url) && new URL(url).origin !== this.origin
      && !/^(blob|data):/.test(url)).length;
  }

  get blocked(): number {
    return this.stopped.size;
  }

  get bytesSent(): number {
    return [...this.bytes.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** In the order in which they were seen first; some that were stopped were never seen as requests. */
  get rows(): Row[] {
    const rows = new Map<string, Row>();
    for (const { url, from } of this.seen) {
      const key = `${from} ${url}`;
      const count = (rows.get(key)?.count ?? 0) + 1;
      const bytes = from === "page" ? (this.bytes.get(url) ?? 0) : 0;
      rows.set(key, { url, from, count, bytes, blocked: this.stopped.has(url) });
    }
    const urls = new Set(this.seen.map(({ url }) => url));
    const others = [...this.stopped].filter(([url]) => !urls.has(url));
    return [...rows.values(), ...others.map(([url, from]) => ({ url, from, count: 1, bytes: 0, blocked: true }))];
  }
}
