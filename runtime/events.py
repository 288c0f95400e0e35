"""What Flow.events() tells while pictures are made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .decoder import Committed
    from .generated import Generated
    from .spec import FlowSpec

EVENT_INTERVAL = 0.05  # seconds between two Progress events of one block


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


class Clock:
    """When to tell, and how long it will take: time so far over patches so far."""

    def __init__(self, spec: FlowSpec, num_images: int) -> None:
        self._start = self._last = time.monotonic()
        self._blocks, self._patches = len(spec.ar_blocks), spec.image.num_patches
        self._images = num_images

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def is_due(self, committed: Committed) -> bool:
        now = time.monotonic()
        if now - self._last < EVENT_INTERVAL and committed.patches < self._patches:
            return False
        self._last = now
        return True

    def progress(self, at: Committed, preview: object) -> Progress:
        done = at.number * self._images + at.first + at.together * at.patches / self._patches
        fraction = done / (self._blocks * self._images)
        seconds = self.seconds
        left = seconds * (1 - fraction) / fraction
        assert callable(preview)
        return Progress(at.block.name, at.number, at.patches, fraction, seconds, left, preview)
