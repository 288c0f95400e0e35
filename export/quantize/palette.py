"""Palettes: the table of values that stands for a matrix with the least weighted square error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .formats import Format
from .matrix import QuantizedMatrix

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_MAX_ROUNDS = 300  # of Lloyd's algorithm; a matrix of 3072 x 768 needs about 100


def nearest_in_palette(weight: Floats, format: Format) -> QuantizedMatrix:
    """[out, in] with each value replaced by the nearest of a palette made for the matrix."""
    palette = make_palette(weight, format)
    return QuantizedMatrix(format, palette_codes(weight, palette), palette=palette)


def make_palette(weight: Floats, format: Format, importance: Doubles | None = None) -> Floats:
    """[2 ** bits] ascending values, each exact in fp16: 1-D k-means of the weights.

    Lloyd's algorithm on the distinct fp16 values (65536 at most, whatever the matrix's size).

    Args:
        importance: [in] weight of a square error in each column; None is 1.
    """
    values, counts = _histogram(weight, importance)
    size = 1 << format.bits
    centres = _first_centres(values, counts, size)
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * values)])
    for _ in range(_MAX_ROUNDS):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], edges, [len(values)]])
        inside = mass[ends[1:]] - mass[ends[:-1]]
        sums = moment[ends[1:]] - moment[ends[:-1]]
        moved = np.where(inside > 0, sums / np.where(inside > 0, inside, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres.astype(np.float16).astype(np.float32)


def palette_codes(weight: Floats, palette: Floats) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of an ascending palette."""
    return np.searchsorted((palette[1:] + palette[:-1]) / 2, weight).astype(np.uint8)


def _histogram(weight: Floats, importance: Doubles | None) -> tuple[Doubles, Doubles]:
    """Distinct fp16 values, ascending, and the sum of importance of each."""
    halves = np.clip(weight, -65504, 65504).astype(np.float16)  # the largest fp16
    values, places = np.unique(halves, return_inverse=True)
    columns = None if importance is None else np.broadcast_to(importance, weight.shape).ravel()
    counts = np.bincount(places.ravel(), columns, len(values)).astype(np.float64)
    return values.astype(np.float64), counts + 1e-12 * counts.max() + np.finfo(float).tiny


def _first_centres(values: Doubles, counts: Doubles, size: int) -> Doubles:
    """Quantiles of the density to the power 1/3, which is optimal for many entries (Panter, Dite).

    The density is that of 4 * size bins between the least and the largest value.
    """
    if len(values) <= size:
        return np.concatenate([values, np.full(size - len(values), values[-1])])
    density, edges = np.histogram(values, 4 * size, weights=counts)
    steps = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centres: Doubles = np.interp((np.arange(size) + 0.5) / size * steps[-1], steps, edges)
    return centres
