"""The first patches of every block, sampled and encoded again: what a large model is checked by.

A block is causal in its own order of patches, so its first P of them are an inverse problem of
their own and need P - 1 calls instead of T - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .guidance import Guidance
from .images import max_abs_error
from .model import Model, check_finite
from .normal import normals
from .sampler import invert_sequential
from .spec import ARBlock

Floats = npt.NDArray[np.float32]

SEED_DOMAIN = 5  # this noise is apart from that of pictures


@dataclass(frozen=True)
class Prefix:
    """The first P patches of one block, [1, P, D] in its own order.

    Attributes:
        block: which one.
        z: standard normal noise.
        x: what sequential sampling makes of it, one call for a patch.
        again: x encoded, in one call (a chain where windows are static).
    """

    block: ARBlock
    z: Floats
    x: Floats
    again: Floats

    @property
    def error(self) -> float:
        """max_abs_error of the round trip."""
        return max_abs_error(self.again, self.z)


def sample_prefixes(model: Model, num_patches: int, *, seed: int = 0) -> Iterator[Prefix]:
    """Sample and encode the first patches of every block, in the order of generation.

    Args:
        num_patches: at least 2, at most T.
        seed: of the noise; each block has its own.

    Raises:
        NonFiniteError: a block gave NaN or infinity.
    """
    spec, guidance = model.bundle.spec, Guidance()
    label = 0 if spec.num_classes else None
    for block in spec.ar_blocks:
        noise = normals(seed + block.block, num_patches * spec.image.patch_dim, domain=SEED_DOMAIN)
        z = noise.reshape(1, num_patches, -1)
        x = z.copy()
        with model.stage(block, [label]) as stage:
            for _ in invert_sequential(stage, x, guidance, guidance.weights(num_patches)):
                pass
            check_finite(x, block, 0, "sampling")
            xa, xb = stage.step(np.ascontiguousarray(x[:, :-1]), 0)
            again = x.copy()
            again[:, 1:] = (x[:, 1:] - xb[0]) * np.exp(-xa[0])
        yield Prefix(block, z, x, again)
