/** The worker: answers the page's calls one after another. */

/// <reference lib="webworker" />
import { abortError, FlowshipError, messageOf } from "../core/errors";
import { observeRequests, REQUEST_CHANNEL } from "../core/seen";
import { loadOrt } from "./ort_loader";
import type { FromWorker, ToWorker } from "./protocol";
import { Session } from "./session";

const requests = new BroadcastChannel(REQUEST_CHANNEL);
observeRequests("engine", (found) => requests.postMessage(found));

type Call = Extract<ToWorker, { kind: "call" }>;

const running = new Map<number, AbortController>();
let session: Session;
let queue: Promise<void> = Promise.resolve();

self.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === "start") session = new Session(data.base, loadOrt);
  else if (data.kind === "cancel") running.get(data.id)?.abort();
  else {
    const controller = new AbortController();
    running.set(data.id, controller);
    queue = queue.then(() => answer(data, controller.signal));
  }
};

async function answer({ id, method, args }: Call, signal: AbortSignal): Promise<void> {
  try {
    if (signal.aborted) throw abortError();
    // The page's proxy is typed by the protocol, which the compiler cannot follow to here.
    const handler = session.handlers[method] as (
      args: readonly unknown[], tell: (event: unknown) => void, signal: AbortSignal,
    ) => Promise<unknown>;
    const result = await handler(args, (event) => send({ kind: "event", id, event }), signal);
    send({ kind: "result", id, result });
  } catch (error) {
    const kind = error instanceof FlowshipError ? error.kind : null;
    const name = error instanceof Error ? error.name : "Error";
    send({ kind: "error", id, error: { kind, name, message: messageOf(error) } });
  } finally {
    running.delete(id);
  }
}

function send(message: FromWorker): void {
  self.postMessage(message);
}
