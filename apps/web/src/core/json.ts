/**
 * JSON as Python reads and writes it: integers stay apart from floats, at any length (seeds have up
 * to 64 bits), and what other languages read differently is refused.
 *
 * An integer is a bigint here and a float is a number.
 */

export type Json = null | boolean | bigint | number | string | Json[] | JsonObject;
export type JsonObject = { [key: string]: Json };

const MAX_DEPTH = 200; // ours have six levels
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;
const WORDS: readonly [string, Json][] = [["null", null], ["true", true], ["false", false]];

/** Parse strict JSON: no NaN, no key twice.
 * @throws SyntaxError what is wrong, and at which character. */
export function parseJson(text: string): Json {
  return new Parser(text).document();
}

/** Compact text as json.dumps gives it; `spaced` with its default separators. Non-ASCII characters
 * are escaped, keys keep their order. */
export function dumpJson(value: Json, spaced = false): string {
  const [comma, colon] = spaced ? [", ", ": "] : [",", ":"];
  const dump = (item: Json): string => {
    if (item === null || typeof item === "boolean") return String(item);
    if (typeof item === "bigint") return item.toString();
    if (typeof item === "number") return pythonFloat(item);
    if (typeof item === "string") return dumpString(item);
    if (Array.isArray(item)) return `[${item.map(dump).join(comma)}]`;
    const pairs = Object.entries(item).map(([key, v]) => dumpString(key) + colon + dump(v));
    return `{${pairs.join(comma)}}`;
  };
  return dump(value);
}

/** A float as Python's repr writes it: the shortest digits, an exponent below 1e-4 and from 1e16. */
export function pythonFloat(value: number): string {
  if (!Number.isFinite(value)) throw new RangeError(`${value} is not a JSON number`);
  if (Object.is(value, -0)) return "-0.0";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e16)) {
    const [digits, exponent] = value.toExponential().split("e") as [string, string];
    return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** A float as Python's format code g writes it: six significant digits. */
export function formatG(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const [digits, exponent] = value.toExponential(5).split("e") as [string, string];
  const power = Number(exponent);
  const trim = (text: string) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (power < -4 || power >= 6) {
    return `${trim(digits)}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  return trim(value.toFixed(5 - power));
}

function dumpString(text: string): string {
  return JSON.stringify(text).replace(
    /[\x7f-\uffff]/g,
    (c) => (c === "\x7f" ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`),
  );
}

class Parser {
  private at = 0;

  constructor(private readonly text: string) {}

  document(): Json {
    const value = this.value(0);
    this.skipSpace();
    if (this.at < this.text.length) throw this.error("something follows the value");
    return value;
  }

  private value(depth: number): Json {
    if (depth > MAX_DEPTH) throw this.error(`more than ${MAX_DEPTH} levels`);
    this.skipSpace();
    const first = this.text[this.at];
    if (first === "{") return this.object(depth);
    if (first === "[") return this.array(depth);
    if (first === '"') return this.string();
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private object(depth: number): JsonObject {
    // No prototype: "__proto__" is a key like others.
    const found = Object.create(null) as JsonObject;
    this.list("}", () => {
      this.skipSpace();
      if (this.text[this.at] !== '"') throw this.error("a key is expected");
      const key = this.string();
      if (key in found) throw this.error(`the key ${show(key)} is there twice`);
      this.skipSpace();
      if (this.text[this.at] !== ":") throw this.error("':' is expected");
      this.at++;
      found[key] = this.value(depth + 1);
    });
    return found;
  }

  private array(depth: number): Json[] {
    const found: Json[] = [];
    this.list("]", () => found.push(this.value(depth + 1)));
    return found;
  }

  private list(end: string, item: () => void): void {
    this.at++;
    this.skipSpace();
    if (this.text[this.at] === end) {
      this.at++;
      return;
    }
    for (;;) {
      item();
      this.skipSpace();
      const next = this.text[this.at++];
      if (next === end) return;
      if (next !== ",") {
        this.at--;
        throw this.error(`',' or '${end}' is expected`);
      }
    }
  }

  private string(): string {
    return JSON.parse(this.match(STRING, "the text is not closed or has bad characters")) as string;
  }

  private number(): bigint | number {
    NUMBER.lastIndex = this.at;
    const found = NUMBER.exec(this.text);
    if (!found) throw this.error("a value is expected");
    this.at = NUMBER.lastIndex;
    // Python limits integers to 4300 digits for the same reason: the time grows quadratically.
    if (found[0].length > 4300) throw this.error("a number has more than 4300 digits");
    return found[1] || found[2] ? Number(found[0]) : BigInt(found[0]);
  }

  private match(pattern: RegExp, otherwise: string): string {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) throw this.error(otherwise);
    this.at = pattern.lastIndex;
    return found[0];
  }

  private skipSpace(): void {
    this.match(SPACE, "");
  }

  private error(what: string): SyntaxError {
    return new SyntaxError(`${what} at character ${this.at}`);
  }
}

/** A value in an error message, bounded in length. */
export function show(value: Json): string {
  if (typeof value === "string") return quote(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value !== null && typeof value === "object") return "an object";
  const text = String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Text in single quotes, its control characters escaped. */
export function quote(text: string): string {
  return `'${JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"')}'`;
}
