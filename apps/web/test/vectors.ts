/** What Python gives: tests/make_web_vectors.py. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

export const VECTORS = JSON.parse(
  readFileSync(join(import.meta.dirname, "../../../tests/web_vectors/vectors.json"), "utf8"),
);
