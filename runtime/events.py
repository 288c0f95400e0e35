"""What Flow.events() tells while pictures are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import NonFiniteError

if TYPE_CHECKING:
    from .generated import Generated

_NAMED = 40  # pictures that an error names


@dataclass(frozen=True)
class Started:
    """Work begins: pictures, blocks, and patches in a picture."""

    num_images: int
    num_blocks: int
    num_patches: int


@dataclass(frozen=True)
class Progress:
    """How far it is.

    Attributes:
        block: name of the block that runs; ``block_index`` is its number in order of generation.
        patches: patches of the running pictures that are final for this block, of ``num_patches``.
        fraction: done of the whole work, 0 to 1.
        seconds: since the start; ``seconds_left`` extrapolates them.
        preview: makes [N, C, H, W] uint8 pictures of the present state.
    """

    block: str
    block_index: int
    patches: int
    fraction: float
    seconds: float
    seconds_left: float
    preview: Callable[[], npt.NDArray[np.uint8]] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Denoising:
    """All blocks are done; the score step runs."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """A picture that holds NaN or infinity: its number in the run, its seed, and where it began."""

    number: int
    seed: int
    reason: str


@dataclass(frozen=True)
class Finished:
    """The pictures are made.

    Attributes:
        result: the pictures that are finite, with a recipe of them alone; there is at least one.
        seconds: since the start.
        failed: the others.
    """

    result: Generated
    seconds: float
    failed: tuple[Failed, ...] = ()

    def complete(self) -> Generated:
        """The result, where no picture failed.

        Raises:
            NonFiniteError: some did; it has the others as ``made``.
        """
        if self.failed:
            count = len(self.failed) + len(self.result)
            raise not_finite(self.failed, count, self.result, self.result.recipe.kind)
        return self.result


def not_finite(
    failed: Sequence[Failed], count: int, made: object = None, kind: str = "seed"
) -> NonFiniteError:
    """The error that names the failed ones of ``count`` pictures; ``kind`` is what they are of."""
    names = ", ".join(str(one.seed) for one in failed[:_NAMED])
    names += f" and {len(failed) - _NAMED} more" * (len(failed) > _NAMED)
    several = "s" * (len(failed) > 1)
    which = f"{kind}{several} {names}"
    if count > 1:
        which = f"{len(failed)} of {count} pictures failed: {which}"
    error = NonFiniteError(
        f"{which} gave {failed[0].reason}: try another seed, a smaller guidance or the precision "
        "fp32"
    )
    error.failed, error.made = tuple(failed), made
    return error


Event = Started | Progress | Denoising | Finished
