/** One measured case in the JSON of `flowship bench` (benchmarks/row.py); keys as Python has them. */

import type { Trust } from "./trust";

/** What a browser can know of a row; all other fields have Python's default, null. */
export interface Row {
  readonly model: string;
  readonly engine: string;
  readonly samples_ms: readonly number[];
  readonly status: "ok";
  readonly time_utc: string;
  readonly flowship_version: string;
  readonly machine: string | null;
  readonly cores: number | null;
  readonly memory_gb: number | null;
  readonly os: string | null;
  readonly model_sha256: string;
  readonly engine_version: string;
  readonly precision: string;
  readonly device: string;
  readonly threads: number;
  readonly window: string;
  readonly plan_sha256: string;
  readonly guidance: number;
  readonly label: number | null;
  /** A seed above 2^53 is left out: a JSON number would lose its digits in other programs. */
  readonly seed: number | null;
  readonly samples_used: number;
  readonly median_ms: number;
  readonly p50_ms: number;
  readonly p90_ms: number;
  readonly p99_ms: number;
  readonly min_ms: number;
  readonly spread: number;
  readonly median_uncertainty: number | null;
  readonly images_per_min: number;
  readonly patches_per_s: number;
  readonly num_patches: number;
  readonly load_ms: number | null;
  /** Of the 8-bit pixels [C, H, W]. */
  readonly output_sha256: string;
  readonly conditions: string;
  readonly notes: readonly string[];
  readonly trust: Trust;
  readonly trust_reasons: readonly string[];
}
