"""Order statistics of timing samples: they are skewed and correlated, so means are not used."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BOOTSTRAP_ROUNDS, BOOTSTRAP_SEED = 2000, 20240607
CONFIDENCE = 0.95
Z = 1.96  # two-sided 95 % of the normal distribution
PARTS, MIN_PART = 5, 3  # a series is cut into so many parts, of so many samples at least


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear interpolation between the two nearest samples."""
    return float(np.percentile(np.asarray(samples, np.float64), percent))


def relative_iqr(samples: Sequence[float]) -> float:
    """Distance between the quartiles over the median."""
    low, middle, high = np.percentile(np.asarray(samples, np.float64), [25, 50, 75])
    return float((high - low) / middle) if middle > 0 else 0.0


def median_uncertainty(samples: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median, from ranks: no distribution assumed."""
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    reach = Z * sqrt(n) / 2
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    middle = float(np.median(ordered))
    return float((ordered[high] - ordered[low]) / 2 / middle) if middle > 0 else 0.0


def drift(samples: Sequence[float]) -> float:
    """How far the medians of PARTS consecutive parts lie apart, over the median of all.

    A machine that changes while it measures shows here and nowhere else: each part may be calm.
    Series that are too short for parts have none.
    """
    values = np.asarray(samples, np.float64)
    if len(values) < PARTS * MIN_PART:
        return 0.0
    medians = [float(np.median(part)) for part in np.array_split(values, PARTS)]
    return (max(medians) - min(medians)) / float(np.median(values))


def ratio_interval(
    a: Sequence[float], b: Sequence[float], *, paired: bool = False
) -> tuple[float, float, float]:
    """median(b) / median(a) with the 95 % bootstrap interval around it, always the same numbers.

    Args:
        paired: sample i of both was taken in the same round, so they are drawn together and what
            disturbed both cancels.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    first = _picks(len(left), rng)
    second = first if paired else _picks(len(right), rng)
    ratios = np.median(right[second], axis=1) / np.median(left[first], axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(np.median(right) / np.median(left)), float(low), float(high)


def _picks(n: int, rng: np.random.Generator) -> Integers:
    """[rounds, n] places of resampled series, drawn in runs of sqrt(n) neighbours.

    Neighbours in time share the machine's mood; drawing them one by one would pretend that they are
    independent and make the interval too narrow.
    """
    length = max(1, round(n**0.5))
    starts = rng.integers(0, n, (BOOTSTRAP_ROUNDS, -(-n // length)))
    places: Integers = (starts[:, :, None] + np.arange(length)) % n
    return places.reshape(BOOTSTRAP_ROUNDS, -1)[:, :n]
