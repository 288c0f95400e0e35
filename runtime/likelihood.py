"""Exact likelihood from latents and log-determinants, in bits per dimension."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import Literal

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .normal import normals
from .philox import words
from .spec import TrainingNoise
from .values import check_seed

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
NoiseChoice = Literal["none", "train"]
# Domains of the noise stream; 0 is the latent noise of generation.
GAUSSIAN_DOMAIN, UNIFORM_DOMAIN = 1, 2
DATA_SCALE = "256 levels over [-1, 1]"
FEW_PICTURES = 64
MEANING = (
    "this compares models, precisions or labels on the same pictures; it cannot tell whether a "
    "picture is like the training data: plain black, white or grey ones often score best"
)


def few_pictures(count: int) -> str:
    """What follows a number of pictures that a mean and its interval are of."""
    few = f" (a small sample: {FEW_PICTURES} pictures and more say more)"
    return few if count < FEW_PICTURES else ""


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of N pictures.

    Attributes:
        bits_per_dim: [N], on the scale of ``convention``.
        nll: [N] nats per dimension of the [-1, 1] data.
        logdet: [N] log |dz/dx| as a mean over dimensions.
        convention: data scale, prior and noise, in words; print it beside the number.
    """

    bits_per_dim: Doubles
    nll: Doubles
    logdet: Doubles
    convention: str

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Doubles:
        return np.array(self.bits_per_dim, dtype)


def likelihood(latents: Floats, logdet: Doubles, var: Floats, convention: str) -> Likelihood:
    """-log p(x) = z^2 / (2 var) + log(2 pi var) / 2 - logdet, as a mean over dimensions.

    bits/dim adds ln 128, because 256 levels over [-1, 1] have the width 1/128 (the convention of
    apple/ml-tarflow's evaluation, there with var = 1).

    Args:
        latents: [N, T, D] z.
        logdet: [N] mean over dimensions.
        var: [T, D] variances of the prior.
    """
    if not (var > 0).all():
        raise UsageError("the prior has a variance of 0: there is no likelihood")
    variance = var.astype(np.float64)
    prior = 0.5 * (latents.astype(np.float64) ** 2 / variance + np.log(2 * pi * variance))
    nll = prior.mean(axis=(1, 2)) - logdet
    return Likelihood((nll + log(128)) / log(2), nll, logdet, convention)


def describe_convention(training: TrainingNoise, noise: NoiseChoice) -> str:
    """Words for what a bits/dim number means."""
    if noise == "none":
        added = "no noise added"
    elif training.kind == "gaussian":
        added = (
            f"Gaussian training noise of std {training.std:g} added, a density of noisy pictures"
        )
    else:
        added = "uniform training noise added, a bound on 8-bit pictures"
    return f"bits/dim, {DATA_SCALE}, prior N(0, var), {added}"


def add_training_noise(images: Floats, training: TrainingNoise, seed: int) -> Floats:
    """The pictures as the model saw them in training.

    Gaussian: x + std * n. Uniform: level l of 256 becomes (l + u) / 256 * 2 - 1. The noise of
    picture i is the stream of ``seed + i``.

    Args:
        images: [N, C, H, W] in [-1, 1].

    Raises:
        UsageError: the bundle does not say how the model was trained.
    """
    if training.kind == "unknown":
        raise UsageError(
            "the bundle does not say which noise the model was trained with: export it again with "
            "--noise-std, or score with --noise none"
        )
    seed = check_seed(seed, "noise_seed", len(images))
    shape, size = images.shape[1:], images[0].size
    if training.kind == "gaussian":
        assert training.std is not None
        noise = [normals(seed + i, size, domain=GAUSSIAN_DOMAIN) for i in range(len(images))]
        noisy: Floats = images + np.float32(training.std) * np.stack(noise).reshape(-1, *shape)
        return noisy
    levels = np.rint((images.astype(np.float64) + 1) * 127.5)
    draws = [_uniforms(seed + i, size) for i in range(len(images))]
    return ((levels + np.stack(draws).reshape(-1, *shape)) / 128 - 1).astype(np.float32)


def _uniforms(seed: int, count: int) -> Doubles:
    """(word + 0.5) / 2^32."""
    return (words(seed, count, domain=UNIFORM_DOMAIN).astype(np.float64) + 0.5) / 2.0**32
