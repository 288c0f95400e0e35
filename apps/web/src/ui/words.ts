/** Numbers in words for people. */

import type { Row } from "../core/bench_row";
import type { ModelInfo } from "../engine/api";

export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  const units = ["kB", "MB", "GB"];
  let value = bytes;
  let unit = -1;
  do {
    value /= 1000;
    unit++;
  } while (value >= 999.5 && unit < units.length - 1);
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Such as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", as the command line says it. */
export function formatSeconds(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** What a job of the laptop's engine waits for; null is a place in its queue. */
export function describeWaiting(ahead: number | null): string {
  if (ahead === null) return "the queue is full, waiting for a place";
  if (ahead === 0) return "waiting, next in the queue";
  return `waiting, ${ahead} before it`;
}

/** What the denoising switch does, or why this model has none; at most two lines of a phone. */
export function describeDenoise(model: ModelInfo | null): string {
  if (!model || model.denoise) return "One more step takes the training noise out of the picture.";
  if (model.trainingNoise.kind !== "gaussian") return "Not with this model: its training noise was not Gaussian.";
  const { name, precision } = model.engine;
  return `Not with this bundle: no denoising graphs for ${name} ${precision}.`;
}

/** The verdict on a measurement, with every reason. */
export function describeTrust({ trust, trust_reasons: reasons }: Pick<Row, "trust" | "trust_reasons">): string {
  return trust === "trusted" ? "Trusted: enough pictures, and they agree."
    : `${trust === "noisy" ? "Noisy" : "Not trustworthy"}: ${reasons.join("; ")}.`;
}

/** What a likelihood says of a picture and what it does not: beside every number. */
export function explainBits({ kind, std }: ModelInfo["trainingNoise"]): readonly string[] {
  const noise = kind === "gaussian" && std ? Math.log2(std * 127.5 * Math.sqrt(2 * Math.PI * Math.E)) : 0;
  return [
    "What it tells: how many bits this model would need for each value of the picture. Raw pixels take 8. Two "
      + "models can be compared by it on the same pictures, under the same convention.",
    "What it cannot tell: whether the picture is like those that the model was trained on. Plain pictures, such as a "
      + "black square, take few bits with any model, and pictures of a kind that it never saw can take fewer than its own.",
    ...(noise > 0 ? ["This model was trained on pictures with noise added, which nothing can foretell: the noise alone "
      + `costs ${noise.toFixed(1)} bits a value.`] : []),
  ];
}
