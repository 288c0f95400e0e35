"""How far the measuring is and how long it still takes, from what its own runs have taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean


class Ahead:
    """Estimates a fraction whose remainder is the time that is left.

    Args:
        cases: of the whole grid, those that will be refused among them.
    """

    def __init__(self, cases: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cases, self._clock, self._start = cases, clock, clock()
        self._checks: list[float] = []  # seconds of each, which are alike

    def refused(self) -> None:
        """One case takes no time."""
        self._cases -= 1

    def checked(self, seconds: float) -> None:
        """One case is over: its picture and its cold start are done."""
        self._checks.append(seconds)

    def fraction(self, sampling: Sequence[float], unchecked: int, check: float) -> float:
        """The part of the time that is over, 0 to 1.

        Args:
            sampling: seconds that each open case will still be sampled.
            unchecked: open cases whose picture and cold start are still to come.
            check: seconds of such a check, as long as none was done.
        """
        if self._checks:
            check = fmean(self._checks)
        elapsed = self._clock() - self._start
        left = sum(sampling) + check * unchecked
        known = len(self._checks) + unchecked
        if known:  # cases that are not open yet take as long as the others
            left += (self._cases - known) * (elapsed + left) / known
        return elapsed / (elapsed + left) if elapsed + left > 0 else 1.0
