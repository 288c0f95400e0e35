/** Server-sent events over fetch: EventSource can neither POST nor send a token. */

import { FlowshipError, messageOf } from "../core/errors";

export interface ServerEvent {
  readonly name: string;
  readonly data: string;
}

/** The events of a stream as they arrive.
 * @throws FlowshipError (engine) the connection breaks off, or ends in the middle of an event. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw broken(`broke off: ${messageOf(error)}`);
      });
      if (done) break;
      // A picture may come in many parts: only the end of the text can be new.
      const from = Math.max(0, text.length - 1);
      text += value;
      if (!text.includes("\n\n", from)) continue;
      const events = text.split("\n\n");
      text = events.pop()!;
      for (const event of events) {
        const found = parseEvent(event);
        if (found) yield found;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (text.trim()) throw broken("was closed early");
}

function broken(how: string): FlowshipError {
  return new FlowshipError("engine", `the connection to the laptop's engine ${how}; is flowship serve still `
    + "running? Choose this browser under Device to go on without it");
}

/** Null for comments, which keep the connection alive. */
function parseEvent(text: string): ServerEvent | null {
  let name = "message";
  const data: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { name, data: data.join("\n") } : null;
}
