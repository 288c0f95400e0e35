"""Which format each matrix gets: the least bytes for a loss, or the least loss for the bytes.

An exact multiple-choice knapsack: matrices of a flow come in four shapes, so that sums of bytes
fall on few different values and dynamic programming over them is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

from ...runtime.errors import UsageError

Doubles = npt.NDArray[np.float64]

MAX_BINS = 100_000  # of bytes; where shapes need more, results are exact to 1 part in 100,000


@dataclass(frozen=True)
class Choice:
    """One way to store a matrix.

    Attributes:
        format: its name; None is the target's float type.
        nbytes: as stored.
        increase: of bits/dim when this matrix alone is stored so.
    """

    format: str | None
    nbytes: int
    increase: float


@dataclass(frozen=True)
class Allocation:
    """A choice for each matrix, in the order given.

    Attributes:
        nbytes: of all matrices.
        increase: the sum, which is what all together are predicted to cost.
    """

    choices: tuple[Choice, ...]

    @property
    def nbytes(self) -> int:
        return sum(choice.nbytes for choice in self.choices)

    @property
    def increase(self) -> float:
        return sum(choice.increase for choice in self.choices)


class Frontier:
    """All allocations that are best for their size, worked out once.

    Args:
        options: of each matrix, one at least.
    """

    def __init__(self, options: Sequence[Sequence[Choice]]) -> None:
        self._options = [tuple(own) for own in options]
        least = [min(choice.nbytes for choice in own) for own in self._options]
        extras = [[c.nbytes - low for c in own] for own, low in zip(options, least, strict=True)]
        self.least_bytes, most = sum(least), sum(map(max, extras))
        self._unit = max(gcd(*(e for own in extras for e in own)), -(-most // MAX_BINS), 1)
        self._extras = [[-(-extra // self._unit) for extra in own] for own in extras]
        self._increases, self._picks = self._solve()

    def smallest(self, max_increase: float) -> Allocation:
        """The fewest bytes with a predicted increase of at most ``max_increase``.

        Raises:
            UsageError: there is none; the message says what is possible.
        """
        within = np.flatnonzero(self._increases <= max_increase)
        if not len(within):
            raise UsageError(
                f"no choice of formats keeps the increase at {max_increase:.6g} bits/dim: "
                f"{self._increases.min():.6g} is the least"
            )
        return self._allocation(int(within[0]))

    def best(self, max_bytes: int) -> Allocation:
        """The least predicted increase in at most ``max_bytes``.

        Raises:
            UsageError: there is none; the message says what is possible.
        """
        last = (max_bytes - self.least_bytes) // self._unit
        if last < 0:
            raise UsageError(
                f"no choice of formats takes {max_bytes} bytes or less: "
                f"{self.least_bytes} is the least"
            )
        return self._allocation(int(self._increases[: last + 1].argmin()))

    def hull(self) -> list[Allocation]:
        """Corners of the lower convex hull of increase over bytes, the smallest first."""
        corners: list[tuple[int, float]] = []
        lowest = np.inf
        for place in np.flatnonzero(np.isfinite(self._increases)).tolist():
            point = (place, float(self._increases[place]))
            if point[1] >= lowest:
                continue
            lowest = point[1]
            while len(corners) > 1 and not _is_convex(corners[-2], corners[-1], point):
                corners.pop()
            corners.append(point)
        return [self._allocation(place) for place, _ in corners]

    def _solve(self) -> tuple[Doubles, list[npt.NDArray[np.uint8]]]:
        """The least increase at each size in units, and each matrix's choice that leads there."""
        bins = sum(map(max, self._extras)) + 1
        reached = np.full(bins, np.inf)
        reached[0] = 0
        picks = []
        for own, extras in zip(self._options, self._extras, strict=True):
            totals = np.full((len(own), bins), np.inf)
            for row, choice, extra in zip(totals, own, extras, strict=True):
                row[extra:] = reached[: bins - extra] + choice.increase
            pick = totals.argmin(axis=0)
            reached = np.take_along_axis(totals, pick[None], axis=0)[0]
            picks.append(pick.astype(np.uint8))
        return reached, picks

    def _allocation(self, place: int) -> Allocation:
        chosen = []
        for own, extras, pick in zip(
            reversed(self._options), reversed(self._extras), reversed(self._picks), strict=True
        ):
            number = int(pick[place])
            chosen.append(own[number])
            place -= extras[number]
        assert place == 0
        return Allocation(tuple(reversed(chosen)))


def _is_convex(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) < (c[1] - b[1]) * (b[0] - a[0])
