/** Verdicts on series of samples are those of Python, reason for reason. */

import { expect, it } from "vitest";
import { judge } from "../src/core/trust";
import { VECTORS } from "./vectors";

it.each(VECTORS.trust as { samples: number[]; seconds: number; trust: string; reasons: string[] }[])(
  "$trust: $reasons", ({ samples, seconds, trust, reasons }) => expect(judge(samples, seconds)).toEqual({ trust, reasons }),
);
