"""GPTQ: codes that keep a linear layer's outputs on real inputs, not its weights, close.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022: columns are rounded one after another, and the error of each is made up for by
the columns that follow, as the inverse Hessian says. Columns of large inputs go first ("act
order"); the scales are those of round to nearest, fixed before, so that groups keep their places.
Two additions were measured and left out, being no better on held-out pictures (embedded model,
int4_g32): a search for clipped scales, and coordinate descent on codes and scales afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...runtime.errors import NonFiniteError
from .formats import Format
from .matrix import QuantizedMatrix
from .palette import make_palette
from .rtn import spread_scales, symmetric_scales

Floats = npt.NDArray[np.float32]
Rounding = Callable[[Tensor, int], tuple[Tensor, Tensor]]

# Of the mean of the Hessian's diagonal; 0.001 is as good, 0.1 loses a fifth more (same model).
DAMPING = 0.01
_LAZY_COLUMNS = 128  # columns between two updates of all that follow
_DOUBLE_COLUMNS = 4096  # above that in float32: the Hessian alone would take more than 134 MB


def gptq(
    weight: Floats, hessian: Tensor, format: Format, damping: float = DAMPING
) -> QuantizedMatrix:
    """Codes of [out, in] with the least error of the outputs on the calibration inputs.

    Args:
        weight: [out, in].
        hessian: [in, in] sum or mean of x x^T over inputs x.
        format: what the codes mean.
        damping: added to the diagonal, in times of its mean.

    Raises:
        NonFiniteError: the Hessian is not positive definite even with the damping.
    """
    kind = torch.float64 if weight.shape[1] <= _DOUBLE_COLUMNS else torch.float32
    hessian = hessian.to(kind, copy=True)
    diagonal = hessian.diagonal()
    diagonal[diagonal <= 0] = 1  # an input that is always 0: any code will do
    order = torch.argsort(diagonal, descending=True, stable=True)
    importance = diagonal.to(torch.float64).numpy().copy()
    diagonal += damping * diagonal.mean()
    factor = _inverse_factor(hessian[order][:, order])
    columns = torch.from_numpy(weight).to(kind)[:, order]
    if format.kind == "palette":
        palette = make_palette(weight, format, importance)
        codes = _round_columns(columns, factor, _to_palette(palette, kind))
        return QuantizedMatrix(format, _restore(codes, order).astype(np.uint8), palette=palette)
    scales = symmetric_scales(weight, format)
    spread = np.broadcast_to(spread_scales(scales, format, weight.shape[1]), weight.shape)
    rounding = _to_scales(torch.from_numpy(spread[:, order.numpy()]).to(kind), format)
    codes = _round_columns(columns, factor, rounding)
    return QuantizedMatrix(format, _restore(codes, order).astype(np.int8), scales)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """U upper triangular with U^T U = H^-1."""
    return _cholesky(torch.cholesky_inverse(_cholesky(hessian)), upper=True)


def _cholesky(matrix: Tensor, upper: bool = False) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix, upper=upper)
    if failed or not factor.isfinite().all():
        raise NonFiniteError(
            f"the Hessian of {len(matrix)} inputs has no inverse: calibrate on more or other "
            "pictures, or round to nearest"
        )
    found: Tensor = factor
    return found


def _round_columns(columns: Tensor, factor: Tensor, rounding: Rounding) -> Tensor:
    """Codes [out, in] of the columns in order; ``columns`` is used up."""
    codes, width = torch.empty_like(columns), columns.shape[1]
    for start in range(0, width, _LAZY_COLUMNS):
        end = min(start + _LAZY_COLUMNS, width)
        errors = torch.empty_like(columns[:, start:end])
        for i in range(start, end):
            codes[:, i], value = rounding(columns[:, i], i)
            error = (columns[:, i] - value) / factor[i, i]
            columns[:, i + 1 : end] -= error[:, None] * factor[i, i + 1 : end]
            errors[:, i - start] = error
        columns[:, end:] -= errors @ factor[start:end, end:]
    return codes


def _to_scales(spread: Tensor, format: Format) -> Rounding:
    most = 2 ** (format.bits - 1)

    def rounding(column: Tensor, i: int) -> tuple[Tensor, Tensor]:
        codes = (column / spread[:, i]).round().clamp(-most, most - 1)
        return codes, codes * spread[:, i]

    return rounding


def _to_palette(palette: Floats, kind: torch.dtype) -> Rounding:
    entries = torch.from_numpy(palette).to(kind)
    edges = (entries[1:] + entries[:-1]) / 2

    def rounding(column: Tensor, i: int) -> tuple[Tensor, Tensor]:
        codes = torch.searchsorted(edges, column.contiguous())
        return codes.to(kind), entries[codes]

    return rounding


def _restore(codes: Tensor, order: Tensor) -> npt.NDArray[np.float64]:
    restored = torch.empty_like(codes)
    restored[:, order] = codes
    array: npt.NDArray[np.float64] = restored.numpy()
    return array
