"""Round to nearest: the quantization that needs no data, and the yardstick of all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .formats import Format
from .matrix import QuantizedMatrix
from .palette import nearest_in_palette

Floats = npt.NDArray[np.float32]


def round_to_nearest(weight: Floats, format: Format) -> QuantizedMatrix:
    """Symmetric codes of [out, in]: the largest magnitude of a group becomes the largest code.

    Palettes take the nearest entry of a table made for the matrix.
    """
    if format.kind == "palette":
        return nearest_in_palette(weight, format)
    scales = symmetric_scales(weight, format)
    spread = spread_scales(scales, format, weight.shape[1])
    return QuantizedMatrix(format, to_codes(weight / spread, format), scales)


def symmetric_scales(weight: Floats, format: Format) -> Floats:
    """[out, groups] scales, never 0 (a group of zeros has the scale 1).

    Scales of groups are exact in bfloat16, which XNNPACK keeps them in: so all targets write the
    same ones.
    """
    rows, columns = weight.shape
    size = format.group_size or columns
    padded = np.zeros((rows, format.groups(columns) * size), np.float32)
    padded[:, :columns] = np.abs(weight)
    largest = padded.reshape(rows, -1, size).max(axis=2)
    scales: Floats = (largest / (2 ** (format.bits - 1) - 1)).astype(np.float32)
    if format.group_size is not None:
        scales = _to_bfloat16(scales)
    scales[scales == 0] = 1
    return scales


def _to_bfloat16(values: Floats) -> Floats:
    """Positive values rounded to 8 significant bits, ties to even."""
    bits = values.view(np.uint32)
    rounded: Floats = (bits + 0x7FFF + ((bits >> 16) & 1) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def spread_scales(scales: Floats, format: Format, columns: int) -> Floats:
    """[out, groups] to something that broadcasts against [out, in]."""
    if format.group_size is None:
        return scales
    return np.repeat(scales, format.group_size, axis=1)[:, :columns]


def to_codes(values: Floats, format: Format) -> npt.NDArray[np.int8]:
    """Values in units of their scale to codes, ties to even."""
    most = 2 ** (format.bits - 1)
    return np.clip(np.rint(values), -most, most - 1).astype(np.int8)
