"""A bundle with an engine: what decoding, encoding and denoising need to open a block and begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .engines.base import ARStage, Engine
from .errors import NonFiniteError
from .guidance import Guidance
from .spec import ARBlock

Floats = npt.NDArray[np.float32]
Labels = Sequence[int | None]

CACHE_BUDGET_BYTES = 1 << 30  # KV caches of the pictures that run together
MAX_PICTURES_TOGETHER = 64  # more bring nothing on any device measured
NO_GUIDANCE = Guidance()


@dataclass(frozen=True)
class Model:
    """The parts that stay the same for every picture."""

    bundle: Bundle
    engine: Engine

    def pos(self, block: ARBlock) -> Floats:
        """[T, C] position rows in the block's own order."""
        return self.bundle.array(f"{block.name}.pos")

    def class_rows(self, block: ARBlock, labels: Labels, branches: int = 1) -> Floats:
        """[branches, N, C]: the labels' rows (the mean for None), then unconditional rows."""
        table = self.bundle.array(f"{block.name}.classes")
        last = len(table) - 1
        rows = [[last if label is None else label for label in labels]]
        rows += [[last] * len(labels)] * (branches - 1)
        found: Floats = table[np.array(rows)]
        return found

    @contextmanager
    def stage(
        self, block: ARBlock, labels: Labels, guidance: Guidance = NO_GUIDANCE
    ) -> Iterator[ARStage]:
        """A block opened and begun for the pictures with these labels."""
        opened = self.engine.open(
            block,
            num_images=len(labels),
            branches=guidance.branches,
            scaled_queries=guidance.scaled_queries,
        )
        with closing(opened):
            rows = self.class_rows(block, labels, guidance.branches)
            opened.begin(self.pos(block), rows, guidance.q_scale)
            yield opened

    def together(self, block: ARBlock, count: int, guidance: Guidance, window: int = 1) -> int:
        """How many of ``count`` pictures run together in one call of a block."""
        if window > 1:
            return 1
        T = self.bundle.spec.image.num_patches
        cache = 2 * block.num_layers * T * block.channels * 4 * guidance.branches
        limit = self.engine.max_images(guidance.branches, guidance.scaled_queries)
        most = min(count, MAX_PICTURES_TOGETHER, CACHE_BUDGET_BYTES // cache)
        return max(1, most if limit is None else min(most, limit))


def to_block_order(x: Floats, block: ARBlock) -> Floats:
    """[N, T, D] between image order and the block's own order (its own inverse); a copy."""
    copied: Floats = x[:, ::-1].copy() if block.permutation == "flip" else x.copy()
    return copied


_ADVICE = {  # what gives other numbers; the rest is drawn from seeds
    "encoding": "are its pixels within [-1, 1]? In another precision than fp32, try fp32",
    "denoising": "try the precision fp32",
}


def check_finite(x: Floats, block: ARBlock, first_picture: int | None, what: str) -> None:
    """Raise NonFiniteError, naming block, patch and picture, if [N, T, D] holds NaN or infinity.

    Args:
        first_picture: the number of x[0]; None where there is one alone, which has none.
    """
    finite = np.isfinite(x).all(axis=2)
    if finite.all():
        return
    picture, patch = np.argwhere(~finite)[0]
    named = "" if first_picture is None else f", picture {first_picture + picture}"
    advice = _ADVICE.get(what, "try another seed, a smaller guidance or the precision fp32")
    raise NonFiniteError(
        f"{what} gave NaN or infinity in {block.name} at patch {patch} of {x.shape[1]} (in the "
        f"block's order){named}: {advice}"
    )
