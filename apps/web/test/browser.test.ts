/** The page's side of the worker: a new one for each model, and nothing that was asked is lost. */

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { openBrowserBackend } from "../src/engine/browser";
import type { FromWorker, ToWorker } from "../src/engine/protocol";

/** Keeps what it is sent; the test answers. */
class FakeWorker {
  onmessage: ((event: { data: FromWorker }) => void) | null = null;
  onerror: ((event: { message: string }) => void) | null = null;
  readonly sent: ToWorker[] = [];
  ended = false;

  constructor() {
    workers.push(this);
  }

  postMessage(message: ToWorker): void {
    this.sent.push(message);
  }

  terminate(): void {
    this.ended = true;
  }

  get methods(): string[] {
    return this.sent.map((message) => (message.kind === "call" ? message.method : message.kind));
  }

  answer(method: string, result: unknown): void {
    const asked = this.sent.findLast((message) => message.kind === "call" && message.method === method);
    if (asked?.kind !== "call") throw new Error(`${method} was not asked`);
    this.onmessage?.({ data: { kind: "result", id: asked.id, result } });
  }

  fail(method: string, name: string): void {
    const asked = this.sent.findLast((message) => message.kind === "call" && message.method === method);
    if (asked?.kind !== "call") throw new Error(`${method} was not asked`);
    this.onmessage?.({ data: { kind: "error", id: asked.id, error: { kind: null, name, message: "" } } });
  }
}

let workers: FakeWorker[] = [];
beforeEach(() => {
  workers = [];
  vi.stubGlobal("Worker", FakeWorker);
  vi.stubGlobal("document", { baseURI: "http://127.0.0.1/" });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("opens each further model in a worker of its own, after what was asked before", async () => {
  const backend = openBrowserBackend();
  expect(workers).toHaveLength(0);
  const first = backend.open("embedded");
  expect(workers[0].methods).toEqual(["start", "open"]);
  workers[0].answer("open", "first");
  expect(await first).toBe("first");

  const second = backend.open("embedded", { threads: 2 });
  const models = backend.listModels(); // while the first is being closed
  expect(workers[0].methods).toEqual(["start", "open", "close", "listModels"]);
  workers[0].answer("close", undefined);
  await vi.waitFor(() => expect(workers[1]?.methods).toEqual(["start", "listModels", "open"]));
  expect(workers[0].ended).toBe(true);
  workers[1].answer("listModels", ["model"]);
  workers[1].answer("open", "second");
  expect([await models, await second]).toEqual([["model"], "second"]);
});

it("ends a worker that does not come back from a cancelled call, and opens the model again", async () => {
  vi.useFakeTimers();
  const backend = openBrowserBackend();
  const opening = backend.open("embedded", { threads: 2 });
  workers[0].answer("open", "model");
  await opening;
  const cancel = new AbortController();
  const stuck = backend.generate({ seed: 1n }, undefined, cancel.signal);
  const models = backend.listModels(); // waits behind it
  const cancelled = expect(stuck).rejects.toThrow("the call was cancelled");
  cancel.abort();
  expect(workers[0].methods).toEqual(["start", "open", "generate", "listModels", "cancel"]);
  await vi.advanceTimersByTimeAsync(3000);
  expect(workers[0].ended).toBe(false);
  await vi.advanceTimersByTimeAsync(2000);
  await cancelled;
  expect(workers[0].ended).toBe(true);
  expect(workers[1].methods).toEqual(["start", "open", "listModels"]);
  expect(workers[1].sent[1]).toMatchObject({ args: ["embedded", { threads: 2 }] });
  workers[1].answer("open", "again");
  workers[1].answer("listModels", ["model"]);
  expect(await models).toEqual(["model"]);
});

it("keeps a worker that answers a cancel", async () => {
  vi.useFakeTimers();
  const backend = openBrowserBackend();
  const cancel = new AbortController();
  const importing = backend.store.importZip(new Blob(), undefined, cancel.signal);
  const cancelled = expect(importing).rejects.toThrow("the call was cancelled");
  cancel.abort();
  workers[0].fail("importZip", "AbortError");
  await cancelled;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(workers).toHaveLength(1);
  expect(workers[0].ended).toBe(false);
});

it("tells those who wait that the worker has ended, and starts another for the next call", async () => {
  const backend = openBrowserBackend();
  const waiting = backend.open("embedded");
  workers[0].onerror?.({ message: "out of memory" });
  await expect(waiting).rejects.toThrow("the browser's engine has stopped (out of memory)");
  const again = backend.open("embedded");
  expect(workers[1].methods).toEqual(["start", "open"]);
  workers[1].answer("open", "again");
  expect(await again).toBe("again");
});
