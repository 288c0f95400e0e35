/** Errors with text for people. `kind` says what a caller may do about one. */

export type ErrorKind =
  | "usage" // a wrong argument or choice
  | "bundle" // a bundle is incomplete, damaged, hostile or too new
  | "engine" // the engine cannot do what was asked of it
  | "nonfinite" // NaN or infinity during generation or encoding
  | "storage" // the browser keeps no files for us, or has no room
  | "token"; // flowship serve wants another token: it was started again

export class FlowshipError extends Error {
  constructor(
    readonly kind: ErrorKind,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "FlowshipError";
  }
}

export const usageError = (message: string) => new FlowshipError("usage", message);
export const bundleError = (message: string) => new FlowshipError("bundle", message);

/** What the web platform throws at a cancelled call. */
export function abortError(): DOMException {
  return new DOMException("the call was cancelled", "AbortError");
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
