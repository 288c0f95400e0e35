/** Numbers in words for people. */

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

export interface Verdict {
  readonly title: string;
  readonly text: string;
}

const ORDINARY = 4; // bits/dim, below which photographs are to most flows that know their kind
const MARGIN = 0.75; // above what the noise costs; 95 % of Fashion-MNIST's test pictures are below

/** What bits/dim mean. A picture file of 8 bits a value is 8; the model's own kind is far below,
 * unless it was trained on noisy pictures: nothing can foretell the noise. */
export function describeBits(bits: number, { kind, std }: ModelInfo["trainingNoise"]): Verdict {
  const noise = kind === "gaussian" && std ? Math.log2(std * 127.5 * Math.sqrt(2 * Math.PI * Math.E)) : 0;
  const familiar = Math.max(ORDINARY, noise + MARGIN);
  const times = 8 / bits;
  if (bits <= 0) {
    return {
      title: "Almost certain",
      text: "The model finds this picture so likely that it would cost less than nothing on its "
        + "scale; flat pictures do that to a density.",
    };
  }
  if (bits < 8) {
    return {
      title: bits < familiar ? "Familiar" : "Unusual",
      text: `The model could store this picture ${times.toFixed(1)} times smaller than raw pixels, `
        + "which cost 8 bits a value. The smaller the number, the more it looks like its training pictures"
        + (noise > 0 ? `, whose noise alone costs ${noise.toFixed(1)}.` : "."),
    };
  }
  return {
    title: "Never seen anything like it",
    text: "The model expected something else: for it this picture costs "
      + `${(1 / times).toFixed(1)} times what raw pixels cost (8 bits a value).`,
  };
}
