"""What Flow.events() tells while pictures are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .generated import Generated


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
class Finished:
    """The pictures are made."""

    result: Generated
    seconds: float


Event = Started | Progress | Denoising | Finished
