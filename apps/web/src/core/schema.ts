/** Strict conversion of JSON to typed values, with the path of whatever is wrong. */

import { bundleError } from "./errors";
import { type Json, type JsonObject, show } from "./json";

/** Turns a JSON value at a path into a T or throws a FlowshipError that names the path. */
export type Decoder<T> = (value: Json, path: string) => T;

export const text: Decoder<string> = (value, path) => {
  if (typeof value !== "string") throw wrong(path, "a string", value);
  return value;
};

export const flag: Decoder<boolean> = (value, path) => {
  if (typeof value !== "boolean") throw wrong(path, "true or false", value);
  return value;
};

/** Any integer, as Python has them. */
export const bigInteger: Decoder<bigint> = (value, path) => {
  if (typeof value !== "bigint") throw wrong(path, "an integer", value);
  return value;
};

/** An integer that a number holds exactly; no size or count is larger. */
export const integer: Decoder<number> = (value, path) => {
  const found = Number(bigInteger(value, path));
  if (!Number.isSafeInteger(found)) throw wrong(path, "an integer of at most 53 bits", value);
  return found;
};

/** A finite number. */
export const number: Decoder<number> = (value, path) => {
  if (typeof value !== "number" && typeof value !== "bigint") throw wrong(path, "a number", value);
  const found = Number(value);
  if (!Number.isFinite(found)) throw bundleError(`${path}: ${show(value)} is not a finite number`);
  return found;
};

export function oneOf<const T extends string>(...choices: T[]): Decoder<T> {
  return (value, path) => {
    const found = choices.find((choice) => choice === value);
    if (found === undefined) {
      const known = choices.map((choice) => `'${choice}'`).join(", ");
      throw wrong(path, `one of ${known}`, value);
    }
    return found;
  };
}

export function orNull<T>(decode: Decoder<T>): Decoder<T | null> {
  return (value, path) => (value === null ? null : decode(value, path));
}

export function list<T>(decode: Decoder<T>): Decoder<readonly T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw wrong(path, "a list", value);
    return value.map((item, i) => decode(item, `${path}[${i}]`));
  };
}

export function map<T>(decode: Decoder<T>): Decoder<ReadonlyMap<string, T>> {
  return (value, path) => {
    const entries = Object.entries(asObject(value, path));
    return new Map(entries.map(([key, v]) => [key, decode(v, `${path}.${key.slice(0, 80)}`)]));
  };
}

/** Reads the fields of one object; keys that nobody asks for are ignored. */
export class Fields {
  private readonly object: JsonObject;

  constructor(
    value: Json,
    readonly path: string,
  ) {
    this.object = asObject(value, path);
  }

  get<T>(key: string, decode: Decoder<T>): T {
    if (!(key in this.object)) throw bundleError(`${this.path}: the key '${key}' is missing`);
    return decode(this.object[key] as Json, `${this.path}.${key}`);
  }

  getOr<T>(key: string, decode: Decoder<T>, otherwise: T): T {
    return key in this.object ? this.get(key, decode) : otherwise;
  }

  /** Throws unless a condition on the read values holds. */
  require(holds: boolean, message: string): void {
    if (!holds) throw bundleError(`${this.path}: ${message}`);
  }
}

export function record<T>(read: (fields: Fields) => T): Decoder<T> {
  return (value, path) => read(new Fields(value, path));
}

function asObject(value: Json, path: string): JsonObject {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw wrong(path, "an object", value);
  }
  return value;
}

function wrong(path: string, expected: string, value: Json): Error {
  return bundleError(`${path}: expected ${expected}, got ${show(value)}`);
}
