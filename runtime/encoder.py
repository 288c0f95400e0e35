"""Patches to latents: every block in one call of its step graph, or a chain of calls.

z[t] = (x[t] - xb(x[<t])) * exp(-xa(x[<t])), z[0] = x[0]; log |dz/dx| = -sum(xa).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .model import NO_GUIDANCE, Labels, Model, check_finite, to_block_order
from .spec import ARBlock

Floats = npt.NDArray[np.float32]

# A parallel pass holds activations of every patch: bound the pictures that run together.
ACTIVATION_BUDGET_BYTES = 256 << 20


@dataclass(frozen=True)
class EncodedBlock:
    """What one block makes of [N, T, D] patches, all in its own order.

    Attributes:
        block: which one.
        x: its input.
        z: its output.
        xa: log scales; row 0 is zero.
    """

    block: ARBlock
    x: Floats
    z: Floats
    xa: Floats

    @property
    def logdet(self) -> npt.NDArray[np.float64]:
        """[N] log |dz/dx| as a mean over dimensions."""
        mean: npt.NDArray[np.float64] = -self.xa.mean(axis=(1, 2), dtype=np.float64)
        return mean


def encode_blocks(
    model: Model, patches: Floats, labels: Labels, first_picture: int | None = 0
) -> Iterator[EncodedBlock]:
    """Run [N, T, D] patches through the blocks from the image to the latent.

    Args:
        first_picture: its number among all, for errors; None where there is one alone.

    Yields:
        What each block did; the last one's z, in image order, is the latent.

    Raises:
        NonFiniteError: a block gave NaN or infinity.
    """
    for block in reversed(model.bundle.spec.ar_blocks):
        x = to_block_order(patches, block)
        encoded = _encode_block(model, block, x, labels)
        check_finite(encoded.z, block, first_picture, "encoding")
        patches = to_block_order(encoded.z, block)
        yield encoded


def pictures_together(model: Model, count: int) -> int:
    """How many of ``count`` pictures may be encoded at once within the activation budget."""
    T = model.bundle.spec.image.num_patches
    widest = max(block.channels for block in model.bundle.spec.ar_blocks)
    per_picture = 16 * T * widest * 4  # qkv, MLP and residuals of one layer
    per_cache = max(
        model.together(block, count, NO_GUIDANCE) for block in model.bundle.spec.ar_blocks
    )
    return max(1, min(per_cache, ACTIVATION_BUDGET_BYTES // per_picture))


def _encode_block(model: Model, block: ARBlock, x: Floats, labels: Labels) -> EncodedBlock:
    xa, xb = np.zeros_like(x), np.zeros_like(x)
    if x.shape[1] > 1:
        size = model.together(block, len(x), NO_GUIDANCE)
        for first in range(0, len(x), size):
            part = slice(first, first + size)
            with model.stage(block, labels[part]) as stage:
                found_a, found_b = stage.step(np.ascontiguousarray(x[part, :-1]), 0)
                xa[part, 1:], xb[part, 1:] = found_a[0], found_b[0]
    with np.errstate(over="ignore", invalid="ignore"):  # found by the caller
        return EncodedBlock(block, x, (x - xb) * np.exp(-xa), xa)
