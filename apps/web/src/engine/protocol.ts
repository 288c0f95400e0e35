/** Messages between the page and its worker. */

import type { ErrorKind } from "../core/errors";
import type {
  BenchmarkRequest, Calibration, DecodeRequest, Encoded, GenerateRequest, InterpolateRequest,
  ModelInfo, ModelSummary, OpenOptions, Picture, Pixels, Progress, Score, ScoreOptions,
} from "./api";
import type { Row } from "../core/bench_row";

/** What the worker does: arguments, result, and what it tells meanwhile. */
export interface Methods {
  listModels(args: []): { result: ModelSummary[]; event: never };
  open(args: [id: string, options: OpenOptions]): { result: ModelInfo; event: never };
  generate(args: [GenerateRequest]): { result: Picture; event: Progress };
  decode(args: [DecodeRequest]): { result: Picture; event: Progress };
  encode(args: [Pixels, number | null]): { result: Encoded; event: never };
  score(args: [Pixels, ScoreOptions]): { result: Score; event: never };
  interpolate(args: [InterpolateRequest]): { result: Picture[]; event: { index: number; picture: Picture } };
  benchmark(args: [BenchmarkRequest]): { result: Row; event: Progress };
  calibrate(args: []): { result: Calibration; event: Progress };
  listStored(args: []): { result: ModelSummary[]; event: never };
  importZip(args: [Blob]): { result: ModelSummary; event: number };
  removeStored(args: [id: string]): { result: void; event: never };
  close(args: []): { result: void; event: never };
}

export type Method = keyof Methods;
export type Args<M extends Method> = Parameters<Methods[M]>[0];
export type Result<M extends Method> = ReturnType<Methods[M]>["result"];
export type EventOf<M extends Method> = ReturnType<Methods[M]>["event"];

export type ToWorker =
  /** First of all: where the app's files are. */
  | { readonly kind: "start"; readonly base: string }
  | { readonly kind: "call"; readonly id: number; readonly method: Method; readonly args: readonly unknown[] }
  | { readonly kind: "cancel"; readonly id: number };

export type FromWorker =
  | { readonly kind: "event"; readonly id: number; readonly event: unknown }
  | { readonly kind: "result"; readonly id: number; readonly result: unknown }
  | {
      readonly kind: "error";
      readonly id: number;
      readonly error: { readonly kind: ErrorKind | null; readonly name: string; readonly message: string };
    };
