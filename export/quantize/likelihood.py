"""Exact likelihood of pictures under quantized weights, and its change against float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from ...runtime.errors import NonFiniteError
from ...runtime.likelihood import likelihood
from ...runtime.spec import ARBlock
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights
from ..reference import ReferenceBlock
from .data import PictureSet

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
BlockSource = Callable[[ARBlock], BlockWeights]

BATCH_PATCHES = 4096  # of several pictures at once; activations take about 100 kB a patch
# Quantiles of Student's t for 95% two-sided, where the expansion below is off by more than 1%.
_FEW_DEGREES = {1: 12.7062, 2: 4.3027, 3: 3.1824}


@dataclass(frozen=True)
class Change:
    """Change of bits/dim against float32, paired picture by picture.

    Attributes:
        mean: over pictures; above 0 is worse than float32.
        low, high: 95% confidence interval of the mean over pictures (Student's t).
        pictures: number of them.
    """

    mean: float
    low: float
    high: float
    pictures: int


def paired_change(bits: Doubles, reference: Doubles) -> Change:
    """Of bits/dim [N] against those of the same pictures in float32; N is at least 2."""
    differences = np.asarray(bits, np.float64) - reference
    count, mean = len(differences), float(differences.mean())
    half = t_quantile(count - 1) * float(differences.std(ddof=1)) / sqrt(count)
    return Change(mean, mean - half, mean + half, count)


def t_quantile(degrees: int) -> float:
    """97.5% quantile of Student's t (Cornish-Fisher expansion; Abramowitz and Stegun 26.7.5)."""
    if degrees < 1:
        raise ValueError("an interval needs at least 2 pictures")
    if degrees in _FEW_DEGREES:
        return _FEW_DEGREES[degrees]
    z, v = 1.959964, float(degrees)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def bits_per_dim(checkpoint: Checkpoint, pictures: PictureSet, source: BlockSource) -> Doubles:
    """[N] bits/dim on the scale of runtime.likelihood, one block in memory at a time.

    Args:
        source: the weights of a block; asked once for each, from the image to the latents.

    Raises:
        NonFiniteError: the weights give NaN or infinity.
    """
    x, logdet = pictures.patches, np.zeros(len(pictures))
    for stage in reversed(checkpoint.config.flow_spec().ar_blocks):
        block = ReferenceBlock(checkpoint, stage, source(stage))
        x, change = encode_block(block, x, pictures.labels)
        logdet += change
    return score(x, logdet, checkpoint.var())


def score(z: Floats, logdet: Doubles, var: Floats) -> Doubles:
    """[N] bits/dim of latents [N, T, D].

    Raises:
        NonFiniteError: there is none.
    """
    bits = likelihood(z, logdet, var, "").bits_per_dim
    if not np.isfinite(bits).all():
        raise NonFiniteError("NaN or infinity while pictures are encoded with these weights")
    return bits


def encode_block(
    block: ReferenceBlock, x: Floats, labels: Sequence[int | None]
) -> tuple[Floats, Doubles]:
    """[N, T, D] in image order to (z, logdet [N]), a few pictures at a time."""
    z, logdet = np.empty_like(x), np.empty(len(x))
    for pictures in batches(*x.shape[:2]):
        z[pictures], xa = block.encode(x[pictures], labels[pictures])
        logdet[pictures] = -xa.mean(axis=(1, 2), dtype=np.float64)
    return z, logdet


def batches(num_pictures: int, num_patches: int) -> list[slice]:
    """Pictures in turns of BATCH_PATCHES patches, one picture at least."""
    size = max(1, BATCH_PATCHES // num_patches)
    return [slice(start, start + size) for start in range(0, num_pictures, size)]
