/** Exact likelihood from latents and log-determinants, in bits per dimension. */

import { usageError } from "./errors";
import { roundHalfEven } from "./images";
import { formatG } from "./json";
import { normals } from "./normal";
import { words } from "./philox";
import type { TrainingNoise } from "./spec";

// Domains of the noise stream; 0 is the latent noise of generation.
const GAUSSIAN_DOMAIN = 1;
const UNIFORM_DOMAIN = 2;

export interface Likelihood {
  readonly bitsPerDim: number;
  /** Nats per dimension of the [-1, 1] data. */
  readonly nll: number;
}

/** -log p(x) = z^2 / (2 var) + log(2 pi var) / 2 - logdet, as a mean over dimensions; bits/dim adds
 * ln 128, because 256 levels over [-1, 1] have the width 1/128.
 * @param z [T, D]; var_ [T, D] variances of the prior; logdet a mean over dimensions. */
export function likelihood(z: Float32Array, logdet: number, variances: Float32Array): Likelihood {
  let sum = 0;
  for (let i = 0; i < z.length; i++) {
    const v = variances[i];
    if (!(v > 0)) throw usageError("the prior has a variance of 0: there is no likelihood");
    sum += 0.5 * (z[i] ** 2 / v + Math.log(2 * Math.PI * v));
  }
  const nll = sum / z.length - logdet;
  return { nll, bitsPerDim: (nll + Math.log(128)) / Math.LN2 };
}

/** Words for what a bits/dim number means. */
export function describeConvention(training: TrainingNoise, noise: "none" | "train"): string {
  let added = "no noise added";
  if (noise === "train") {
    added =
      training.kind === "gaussian"
        ? `Gaussian training noise of std ${formatG(training.std ?? 0)} added, a density of noisy pictures`
        : "uniform training noise added, a bound on 8-bit pictures";
  }
  return `bits/dim, 256 levels over [-1, 1], prior N(0, var), ${added}`;
}

/** A picture [C, H, W] in [-1, 1] as the model saw its pictures in training. */
export function addTrainingNoise(
  image: Float32Array, { kind, std }: TrainingNoise, seed: bigint,
): Float32Array {
  if (kind === "unknown") {
    throw usageError(
      "the bundle does not say which noise the model was trained with: export it again with " +
        "--noise-std, or score without noise",
    );
  }
  if (kind === "gaussian") {
    const noise = normals(seed, image.length, 0, GAUSSIAN_DOMAIN);
    const scale = Math.fround(std ?? 0);
    return image.map((value, i) => value + Math.fround(scale * noise[i]));
  }
  const draws = words(seed, image.length, 0, UNIFORM_DOMAIN);
  return image.map((value, i) => {
    const level = roundHalfEven((value + 1) * 127.5);
    return (level + (draws[i] + 0.5) / 2 ** 32) / 128 - 1;
  });
}
