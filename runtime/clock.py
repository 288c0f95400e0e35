"""How long a run takes, and when it tells of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from .decoder import Committed
from .events import Progress
from .images import Bytes
from .spec import FlowSpec

EVENT_INTERVAL = 0.05  # seconds between two Progress events of one block


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

    def progress(self, at: Committed, preview: Callable[[], Bytes]) -> Progress:
        done = at.number * self._images + at.first + at.together * at.patches / self._patches
        fraction = done / (self._blocks * self._images)
        seconds = self.seconds
        left = seconds * (1 - fraction) / fraction
        return Progress(at.block.name, at.number, at.patches, fraction, seconds, left, preview)
