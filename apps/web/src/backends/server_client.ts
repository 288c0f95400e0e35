/** Requests to `flowship serve` by the rules of docs/server-api.md. */

import { abortError, type ErrorKind, FlowshipError, messageOf } from "../core/errors";
import { dumpJson, type JsonObject } from "../core/json";
import { readEvents } from "./server_events";

const DETECTION_TIME = 1500; // ms; a server on the same machine answers at once
const LONGEST_WAIT = 60; // seconds between two questions to a busy server, whatever it says

/** Whether this page comes from `flowship serve`; only that has this route. */
export async function isServed(): Promise<boolean> {
  try {
    const response = await fetch("api/status", { signal: AbortSignal.timeout(DETECTION_TIME) });
    const status = response.ok ? ((await response.json()) as { name?: unknown }) : {};
    return status.name === "flowship";
  } catch {
    return false; // the server has ended, or this is another host
  }
}

export class ServerClient {
  /** @param onSent is told of everything but questions: the address, and how many bytes went there. */
  constructor(private readonly token: string, private readonly onSent: (url: string, bytes: number) => void) {}

  async get<T>(route: string, signal?: AbortSignal): Promise<T> {
    return (await (await this.ask(route, {}, signal)).json()) as T;
  }

  /** Closing the stream, as an abort does, cancels the job.
   * @param onBusy The queue is full: it waits and asks again. */
  async stream(
    route: string, body: JsonObject, onEvent: (name: string, data: unknown) => void, signal?: AbortSignal,
    onBusy?: () => void,
  ): Promise<void> {
    const text = dumpJson(body);
    const post = { method: "POST", body: text, headers: { "Content-Type": "application/json" } };
    const response = await this.ask(route, post, signal, onBusy);
    try {
      for await (const { name, data } of readEvents(response.body!)) {
        const value: unknown = JSON.parse(data);
        if (name === "done") return;
        if (name === "cancelled") throw abortError();
        if (name === "error") {
          const { kind, message } = value as { kind: string; message: string };
          throw new FlowshipError(errorKind(kind), message);
        }
        onEvent(name, value);
      }
    } catch (error) {
      throw signal?.aborted ? abortError() : error;
    }
    throw new FlowshipError("engine", "the laptop's engine ended the answer early");
  }

  /** Asks, and where the queue is full asks again when the server says so. */
  private async ask(route: string, init: RequestInit, signal?: AbortSignal, onBusy?: () => void): Promise<Response> {
    for (;;) {
      const response = await this.fetch(route, init, signal);
      if (response.ok) return response;
      const wait = Number(response.headers.get("Retry-After"));
      if (response.status !== 503 || !(wait > 0)) throw await refusal(response);
      onBusy?.();
      await sleep(1000 * Math.min(wait, LONGEST_WAIT), signal);
    }
  }

  private async fetch(route: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
    const url = `api/${route}`;
    const headers = { ...(init.headers as Record<string, string>), Authorization: `Bearer ${this.token}` };
    if (typeof init.body === "string") this.onSent(url, init.body.length); // ASCII
    try {
      return await fetch(url, { ...init, ...(signal ? { signal } : {}), headers });
    } catch (error) {
      if (signal?.aborted) throw abortError();
      throw new FlowshipError("engine", `the laptop's engine does not answer (${messageOf(error)}): is flowship `
        + "serve still running? Choose this browser under Device to go on without it");
    }
  }
}

async function refusal(response: Response): Promise<FlowshipError> {
  const answer = (await response.json().catch(() => null)) as { error?: { kind: string; message: string } } | null;
  const { kind = "engine", message = `the laptop's engine answered with status ${response.status}` } = answer?.error ?? {};
  return new FlowshipError(response.status === 401 ? "token" : errorKind(kind), message);
}

function errorKind(kind: string): ErrorKind {
  if (kind === "usage" || kind === "bundle") return kind;
  return kind === "non_finite" ? "nonfinite" : "engine";
}

function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(abortError());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}
