"""Quantized linear layers as ExecuTorch stores them and as XNNPACK computes them.

``int8`` is XNNPACK's f32-qc8w: codes with a scale for each row under float32 activations.
``int4_g32`` is qd8-f32-qb4w: codes with a bfloat16 scale for 32 weights, under activations that are
rounded to 8 bits, each patch by a scale of its own, so that a patch does not depend on its
neighbours in the window; XNNPACK has no kernel for blocks of 4 bits under float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.errors import UsageError
from ...quantize.formats import FORMATS, Format
from ...quantize.matrix import QuantizedMatrix
from .modules import Store

Array = npt.NDArray[Any]
Layout = tuple[tuple[str, str], ...]
"""Names of the quantized matrices, each with the name of its format."""

STORED = ("int8", "int4_g32")  # the formats that a program can hold


def scales_name(name: str) -> str:
    """Name of a quantized matrix's scales beside its codes."""
    return name.removesuffix("weight") + "scales"


def layout_of(quantized: Mapping[str, QuantizedMatrix]) -> Layout:
    """What a lowered program depends on, beside the shapes.

    Raises:
        UsageError: a matrix that XNNPACK cannot take.
    """
    for name, matrix in quantized.items():
        _check(name, matrix)
    return tuple((name, matrix.format.name) for name, matrix in sorted(quantized.items()))


def _check(name: str, matrix: QuantizedMatrix) -> None:
    columns = matrix.shape[1]
    size = matrix.format.group_size
    if matrix.format.name not in STORED:
        raise UsageError(
            f"executorch cannot store {name} as {matrix.format.name}: choose from "
            f"{', '.join(STORED)}"
        )
    if matrix.zero_points is not None:
        raise UsageError(
            f"executorch cannot store {name} with zero points: its formats are symmetric"
        )
    if size and columns % size:
        raise UsageError(
            f"executorch cannot store {name} as {matrix.format.name}: {columns} columns are not a "
            f"multiple of {size}; int8 takes any number"
        )


# ---- bytes in the file ---------------------------------------------------------------------------


def stored_arrays(matrix: QuantizedMatrix) -> tuple[Array, Array]:
    """Codes and scales, byte for byte as the program holds them.

    Returns:
        int8: codes int8 [out, in] and scales float32 [out].
        int4_g32: codes uint8 [out, in / 2], the left one in the low half and each plus 8, and
        scales uint16 [out, groups], the bits of bfloat16.
    """
    assert matrix.scales is not None
    if matrix.format.bits == 8:
        return np.ascontiguousarray(matrix.codes), matrix.scales[:, 0].astype(np.float32)
    codes = (matrix.codes.astype(np.int16) + 8).astype(np.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4, _to_bfloat16(matrix.scales)


def stored_ones(format: Format, rows: int, columns: int) -> tuple[Array, Array]:
    """What ``stored_arrays`` gives for a matrix of that shape whose scales are 1."""
    scales = np.ones((rows, format.groups(columns)), np.float32)
    return stored_arrays(QuantizedMatrix(format, np.zeros((rows, columns), np.int8), scales))


def _to_bfloat16(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded as XNNPACK's exporter would; methods choose scales that are exact already."""
    tensor = torch.from_numpy(np.ascontiguousarray(scales))
    bits: npt.NDArray[np.uint16] = tensor.to(torch.bfloat16).view(torch.uint16).numpy()
    return bits


def _codes(stored: Array) -> Tensor:
    """int8 [out, in] of stored codes."""
    if stored.dtype == np.int8:
        return torch.from_numpy(stored)
    halves = np.stack([stored & 15, stored >> 4], -1).reshape(len(stored), -1)
    return torch.from_numpy(halves.astype(np.int8) - np.int8(8))


def _scales(stored: Array) -> Tensor:
    """float32 scales of stored ones."""
    if stored.dtype == np.float32:
        return torch.from_numpy(stored)
    return torch.from_numpy(stored).view(torch.bfloat16).float()


# ---- the network ---------------------------------------------------------------------------------


class QuantizedLinear(nn.Module):
    """``linear`` of codes, written with the operators that XNNPACK's partitioner looks for."""

    def __init__(self, format: Format, codes: Tensor, scales: Tensor, bias: nn.Parameter) -> None:
        super().__init__()
        self.format, self.bias = format, bias
        self.register_buffer("weight", codes)
        self.register_buffer("scales", scales)
        zeros = torch.zeros(scales.shape, dtype=torch.int8)
        self.register_buffer("zeros", zeros, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], float32."""
        weight = self._dequantized()
        if self.format.group_size is None:
            return F.linear(x, weight) + self.bias  # not in linear, see executorch_partition
        ops = torch.ops.quantized_decomposed
        scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
        codes = ops.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        x = ops.dequantize_per_token(codes, scale, zero, -128, 127, torch.int8, torch.float32)
        return F.linear(x, weight, self.bias)

    def _dequantized(self) -> Tensor:
        weight, scales = self.get_buffer("weight"), self.get_buffer("scales")
        zeros, size = self.get_buffer("zeros"), self.format.group_size
        ops, int8 = torch.ops.quantized_decomposed, torch.int8
        result: Tensor
        if size is None:
            result = ops.dequantize_per_channel(weight, scales, zeros, 0, -128, 127, int8)
        else:
            result = ops.dequantize_per_channel_group(
                weight, scales, zeros, -8, 7, int8, size, torch.float32
            )
        return result


def build_store(arrays: Mapping[str, Array], layout: Layout) -> Store:
    """The stored arrays of a stage, with products of codes where the layout says."""
    formats = dict(layout)
    codes = {*formats, *map(scales_name, formats)}
    floats = {name: torch.from_numpy(a) for name, a in arrays.items() if name not in codes}
    store = Store(floats)
    for name, format in layout:
        scales = _scales(arrays[scales_name(name)])
        bias = store.parameter(f"{name.removesuffix('weight')}bias")
        store.add_product(
            name, QuantizedLinear(FORMATS[format], _codes(arrays[name]), scales, bias)
        )
    return store
