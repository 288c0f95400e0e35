"""Order statistics of timing samples: they are skewed and correlated, so means are not used."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

BOOTSTRAP_ROUNDS, BOOTSTRAP_SEED = 2000, 20240607
CONFIDENCE = 0.95
Z = 1.96  # two-sided 95 % of the normal distribution


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


def bootstrap_medians(samples: Sequence[float], rng: np.random.Generator) -> Doubles:
    """Medians of resampled series, drawn in runs of n^(1/3) neighbours.

    Neighbours in time share the machine's mood; drawing them one by one would pretend that they are
    independent and make the interval too narrow.
    """
    values = np.asarray(samples, np.float64)
    n = len(values)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, (BOOTSTRAP_ROUNDS, -(-n // length)))
    picks = (starts[:, :, None] + np.arange(length)) % n
    medians: Doubles = np.median(values[picks.reshape(BOOTSTRAP_ROUNDS, -1)[:, :n]], axis=1)
    return medians


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """median(b) / median(a) with the 95 % bootstrap interval around it, always the same numbers."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    ratios = bootstrap_medians(b, rng) / bootstrap_medians(a, rng)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(np.median(b) / np.median(a)), float(low), float(high)
