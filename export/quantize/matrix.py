"""A quantized matrix: codes with scales or a table, the same for every target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .formats import Format

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8] | npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A matrix [out, in] as its format stores it.

    A linear format means ``(codes - zero_points) * scales``, group by group along ``in``; a
    palette means ``palette[codes]``.

    Attributes:
        format: what the codes mean.
        codes: [out, in] int8 (linear: -128..127, or -8..7 at 4 bits) or uint8 (palette indices).
        scales: [out, groups] float32; None for a palette.
        zero_points: [out, groups] int8 in the range of the codes; None where all are 0.
        palette: [2 ** bits] float32; None for a linear format.
    """

    format: Format
    codes: Codes
    scales: Floats | None = None
    zero_points: npt.NDArray[np.int8] | None = None
    palette: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.codes.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        """Bytes as stored, with float32 scales."""
        zeros = 0 if self.zero_points is None else self.zero_points.size * self.format.bits // 8
        return self.format.weight_bytes(*self.shape) + zeros

    def dequantized(self) -> Floats:
        """[out, in] float32, what the codes stand for."""
        if self.palette is not None:
            found: Floats = self.palette[self.codes]
            return found
        assert self.scales is not None
        values = self.codes.astype(np.float32)
        if self.zero_points is not None:
            values -= self._spread(self.zero_points)
        values *= self._spread(self.scales)
        return values

    def _spread(self, per_group: npt.NDArray[Any]) -> Floats:
        """[out, groups] to [out, in] (or [out, 1] where a row is one group)."""
        if self.format.group_size is None:
            return per_group.astype(np.float32)
        spread = np.repeat(per_group.astype(np.float32), self.format.group_size, axis=1)
        return spread[:, : self.shape[1]]
