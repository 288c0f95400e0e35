/** What the forms of ONNX step graphs ask of their engine; runtime/engines/onnx_forms.py has the reasons. */

export type CacheType = "float32" | "float16" | "int8";

const CODES = "gqa-nbits";
const CODES_INT8_CACHE = "gqa-nbits-kv8";

/** Patches that a call really runs: where products are of codes, equal rows get equal bits in any even number of
 * rows, so one that is thrown away makes it even.
 * @param branches That are heads of one sequence: each patch is so many rows. */
export function runWindow(window: number, form: string, branches: number): number {
  if (form !== CODES && form !== CODES_INT8_CACHE) return window;
  const rows = form === CODES_INT8_CACHE ? window * branches : window;
  return window + (rows % 2);
}

/** Type of keys and values. */
export function cacheType(precision: string, form: string): CacheType {
  if (form === CODES_INT8_CACHE) return "int8";
  return precision === "fp16" ? "float16" : "float32";
}
