/** manifest.json and plan.json are refused where Python refuses them, key by key. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { FlowshipError } from "../src/core/errors";
import { loadManifest } from "../src/core/manifest";
import { loadPlanFile } from "../src/core/plan";
import { EMBEDDED } from "./embedded";
import { VECTORS } from "./vectors";

interface Verdicts { path: (string | number)[]; verdicts: string }
type Tree = Record<string | number, unknown>;

const FILES: Record<string, (content: string) => unknown> = {
  "manifest.json": loadManifest, "plan.json": loadPlanFile,
};

/** The file without a key, or with another value there. */
function changed(content: string, path: readonly (string | number)[], number: number): string {
  const tree = JSON.parse(content) as Tree;
  const place = path.slice(0, -1).reduce((inner, key) => inner[key] as Tree, tree);
  const key = path.at(-1)!;
  if (number > 0) place[key] = VECTORS.wrong[number - 1];
  else if (Array.isArray(place)) place.splice(key as number, 1);
  else delete place[key];
  return JSON.stringify(tree);
}

function verdict(check: (content: string) => unknown, content: string): string {
  try {
    check(content);
    return "t";
  } catch (error) {
    expect(error).toBeInstanceOf(FlowshipError);
    return "r";
  }
}

it.each(Object.keys(FILES))("%s: a key that is missing or wrong", (file) => {
  const content = readFileSync(join(EMBEDDED, file), "utf8");
  const cases = VECTORS.verdicts[file] as Verdicts[];
  expect(cases.length).toBeGreaterThan(10);
  const found = cases.map(({ path, verdicts }) => ({
    path, verdicts: [...verdicts].map((_, number) => verdict(FILES[file], changed(content, path, number))).join(""),
  }));
  expect(found).toEqual(cases);
});
