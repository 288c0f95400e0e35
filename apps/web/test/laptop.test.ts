/** The page's side of `flowship serve`: what it sends, and what it makes of refusals and broken streams. */

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { LaptopBackend } from "../src/backends/laptop";
import { ServerClient } from "../src/backends/server_client";
import { VECTORS } from "./vectors";

const BUNDLE = {
  id: "embedded", name: "fashion-mnist", sha256: "0".repeat(64), bytes: 1, width: 28, height: 28, channels: 1,
  classes: [], precisions: ["fp32", "int8"], guidance: true, denoise_precisions: ["fp32"],
  training_noise: { kind: "gaussian", std: 0.1 }, num_blocks: 4, num_patches: 49, patch_size: 4,
  num_parameters: null, licence: null, source_file: "x.pth",
  engine: { name: "onnx", version: "onnxruntime", device: "cpu", precision: "fp32", threads: 1 },
};
const SCORED = { bits_per_dim: 1, nll: 0, logdet: 0, convention: "", input: { width: 1, height: 1, channels: 1, data: "AA==" } };
const PIXELS = { width: 1, height: 1, channels: 1, data: "AA==" };

type Answer = (init: RequestInit) => Response;

const json = (value: unknown, status = 200, headers = {}): Response => new Response(JSON.stringify(value), { status, headers });
const refused = (status: number, kind: string, headers = {}) => json({ error: { kind, message: "no" } }, status, headers);
const events = (...found: [string, unknown][]) =>
  new Response(found.map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join(""));

let answers: Answer[];
let sent: { url: string; body: any }[];
const told: [string, number][] = [];

beforeEach(() => {
  answers = [];
  sent = [];
  told.length = 0;
  vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
    if (url === "api/bundles") return json({ bundles: [BUNDLE] });
    sent.push({ url, body: JSON.parse(init.body as string) });
    return answers.shift()!(init);
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

async function opened(): Promise<LaptopBackend> {
  const laptop = new LaptopBackend(new ServerClient("token", (url, bytes) => told.push([url, bytes])));
  await laptop.open("embedded");
  return laptop;
}

it("sends pictures of any size as the model sees them, which is what Python makes of them", async () => {
  const laptop = await opened();
  for (const { width, height, mode, input, levels } of VECTORS.prepared) {
    const channels = { L: 1, RGB: 3, RGBA: 4 }[mode as string] as 1 | 3 | 4;
    answers.push(() => events(["scored", SCORED], ["done", {}]));
    await laptop.score({ width, height, channels, data: Uint8Array.from(input) });
    const { image } = sent.at(-1)!.body;
    expect([image.width, image.height, image.channels]).toEqual([28, 28, 1]);
    expect([...Buffer.from(image.data, "base64")]).toEqual(levels);
  }
  const photo = { width: 4000, height: 3000, channels: 4 as const, data: new Uint8Array(4 * 12e6).fill(99) };
  answers.push(() => events(["scored", SCORED], ["done", {}]));
  await laptop.score(photo);
  expect(JSON.stringify(sent.at(-1)!.body).length).toBeLessThan(2000);
  expect(told).toHaveLength(4);
  expect(told.at(-1)).toEqual(["api/score", JSON.stringify(sent.at(-1)!.body).length]);
});

it("waits while the queue is full, as long as the server says, and says so", async () => {
  vi.useFakeTimers();
  const laptop = await opened();
  const seen: string[] = [];
  answers = [
    () => refused(503, "busy", { "Retry-After": "3" }),
    () => events(["queued", { job: "1", position: 2 }], ["started", { num_blocks: 4, num_patches: 49 }],
      ["picture", { index: 0, pixels: PIXELS, recipe: VECTORS.recipe }], ["done", {}]),
  ];
  const made = laptop.generate({ seed: 1n }, (event) => {
    seen.push(event.kind === "waiting" ? `waiting ${event.ahead}` : event.kind);
  });
  await vi.advanceTimersByTimeAsync(2900);
  expect([sent.length, seen]).toEqual([1, ["waiting null"]]);
  await vi.advanceTimersByTimeAsync(200);
  expect((await made).pixels.width).toBe(1);
  expect(seen).toEqual(["waiting null", "waiting 2", "started"]);
});

it("can be cancelled while it waits, and does not ask a server again that stops", async () => {
  vi.useFakeTimers();
  const laptop = await opened();
  const cancel = new AbortController();
  answers = [() => refused(503, "busy", { "Retry-After": "3" }), () => refused(503, "stopping")];
  const made = expect(laptop.generate({ seed: 1n }, undefined, cancel.signal)).rejects.toThrow("cancelled");
  await vi.advanceTimersByTimeAsync(100);
  cancel.abort();
  await made;
  await expect(laptop.generate({ seed: 1n })).rejects.toThrow("no");
  await vi.advanceTimersByTimeAsync(100_000);
  expect(sent).toHaveLength(2);
});

it("says what happened where the stream breaks off", async () => {
  const laptop = await opened();
  const text = 'event: started\ndata: {"num_blocks": 4, "num_patches": 49}\n\n';
  answers = [() => new Response(new ReadableStream({
    start: (stream) => stream.enqueue(new TextEncoder().encode(text)),
    pull: (stream) => stream.error(new TypeError("network error")),
  }))];
  await expect(laptop.generate({ seed: 1n })).rejects.toThrow(
    /connection to the laptop's engine broke off: network error; is flowship serve still running\?/,
  );
});

it("tells a token that the server does not know from other errors", async () => {
  const laptop = await opened();
  answers = [() => refused(401, "token"), () => refused(400, "usage")];
  await expect(laptop.generate({ seed: 1n })).rejects.toMatchObject({ kind: "token" });
  await expect(laptop.generate({ seed: 1n })).rejects.toMatchObject({ kind: "usage" });
});

it("is timed by its own clock, without previews, until there is enough for a verdict", async () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  const laptop = await opened();
  const progress = { block: "b", block_index: 3, patches: 49, num_patches: 49, fraction: 1, seconds_left: 0 };
  answers = Array.from({ length: 200 }, () => () => {
    vi.advanceTimersByTime(200); // the way there and back counts for nothing
    return events(["started", { num_blocks: 4, num_patches: 49 }], ["progress", { ...progress, seconds: 0.01 }],
      ["progress", { ...progress, seconds: 0.05 }], ["picture", { index: 0, pixels: PIXELS, recipe: VECTORS.recipe }], ["done", {}]);
  });
  const row = await laptop.benchmark({});
  expect(new Set(sent.map(({ url, body }) => `${url} ${body.preview}`))).toEqual(new Set(["api/generate false"]));
  expect(new Set(row.samples_ms)).toEqual(new Set([50]));
  expect([row.samples_ms.length, row.median_ms, row.device, row.trust]).toEqual([10, 50, "cpu", "trusted"]);
});
