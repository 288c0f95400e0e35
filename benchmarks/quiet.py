"""Waiting until other programs leave the machine alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..runtime.conditions import Reading, disturbance, read_now
from ..runtime.errors import UsageError
from ..runtime.progress import format_seconds
from ..runtime.trust import OTHER_CORES

LOOK = 0.5  # seconds of one look
QUIET_FOR = 3.0  # seconds without a disturbed look

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Waited:
    """What was seen.

    Attributes:
        quiet: the machine came to rest.
        cores: load of other programs in the last look.
    """

    seconds: float
    quiet: bool
    cores: float

    def __str__(self) -> str:
        seen = f"other programs used {self.cores:.2f} cores"
        if self.quiet:
            return f"quiet after {format_seconds(self.seconds)}: {seen}"
        return f"not quiet within {format_seconds(self.seconds)}: {seen}"


def wait_quiet(
    most: float,
    tell: Tell = lambda fraction, words: None,
    read: Callable[[], Reading] = read_now,
    sleep: Callable[[float], None] = time.sleep,
) -> Waited:
    """Look at the machine until QUIET_FOR seconds pass undisturbed, ``most`` seconds at most.

    Raises:
        UsageError: the load of other programs cannot be read here.
    """
    start = before = read()
    quiet_since = before.wall
    if before.cpu is None:
        raise UsageError(
            "--wait-quiet: the load of other programs cannot be read here (pip install psutil)"
        )
    while True:
        sleep(LOOK)
        now = read()
        seen = disturbance(before, now, before.calibration)
        cores, waited = seen.other_cores or 0.0, now.wall - start.wall
        if cores > OTHER_CORES or "steal" in seen.flag:
            quiet_since = now.wall
        if now.wall - quiet_since >= QUIET_FOR:
            return Waited(waited, True, cores)
        if waited >= most:
            return Waited(waited, False, cores)
        tell(waited / most, f"waiting for quiet: other programs use {cores:.2f} cores")
        before = now
