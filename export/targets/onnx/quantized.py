"""Quantized matrices in ONNX, in three ways that read the same bytes of the weights file.

MatMulNBits multiplies codes; standard operators unpack them to floats, once when a graph is loaded
or anew at each call. MatMulNBits keeps the codes of a row together, two 4-bit codes in a byte, the
first in the low half, and so does ONNX's uint4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ...quantize.formats import Format
from ...quantize.matrix import QuantizedMatrix
from .file import GraphFile, WeightsFile

# Activations become int8 with a scale for each row and group of them. Without it 8-bit weights are
# unpacked at every call by ONNX Runtime 1.32 on x86, 10 times slower than float32.
ACCURACY_LEVEL = 4
OPSET_WITH_4_BITS = 21  # Cast and DequantizeLinear take uint4
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PackedMatrix:
    """What a graph has to know of a quantized matrix [rows, columns] in the weights file."""

    format: Format
    rows: int
    columns: int
    has_zero_points: bool

    @property
    def group_size(self) -> int:
        assert self.format.group_size is not None, "the target lists formats with groups only"
        return self.format.group_size

    @property
    def groups(self) -> int:
        return self.format.groups(self.columns)

    @property
    def kind(self) -> int:
        """ONNX's type of one code."""
        return TensorProto.UINT4 if self.format.bits == 4 else TensorProto.UINT8


def add_matrix(file: WeightsFile, name: str, matrix: QuantizedMatrix) -> PackedMatrix:
    """Append codes, scales and, where there are any, zero points."""
    packed = PackedMatrix(matrix.format, *matrix.shape, matrix.zero_points is not None)
    rows, groups, size = packed.rows, packed.groups, packed.group_size
    codes = np.zeros((rows, groups * size), np.int8)  # the last group is filled up with zeros
    codes[:, : packed.columns] = matrix.codes
    file.add(name, _pack(codes, matrix.format.bits).reshape(rows, groups, -1))
    file.view(f"{name}.codes", name, packed.kind, (rows, groups, size))
    assert matrix.scales is not None
    file.add(f"{name}.scales", matrix.scales)
    file.view(f"{name}.scale_column", f"{name}.scales", TensorProto.FLOAT, (rows, groups, 1))
    if matrix.zero_points is not None:
        even = groups + groups % 2 if matrix.format.bits == 4 else groups  # rows of whole bytes
        zeros = np.zeros((rows, even), np.int8)
        zeros[:, :groups] = matrix.zero_points
        file.add(f"{name}.zeros", _pack(zeros, matrix.format.bits))
        file.view(f"{name}.zero_codes", f"{name}.zeros", packed.kind, (rows, even))
    return packed


def rows_of(
    file: WeightsFile, name: str, of: str, packed: PackedMatrix, start: int, count: int
) -> PackedMatrix:
    """Name some rows of a matrix, for a product of their own."""
    ends = ["", ".codes", ".scales", ".scale_column"]
    for end in ends + [".zeros", ".zero_codes"] * packed.has_zero_points:
        file.rows(f"{name}{end}", f"{of}{end}", start, count)
    return replace(packed, rows=count)


def _pack(codes: npt.NDArray[np.int8], bits: int) -> Bytes:
    """Signed codes [rows, n] to bytes of unsigned ones; n is even at 4 bits."""
    packed: Bytes = np.add(codes.view(np.uint8), 1 << (bits - 1), dtype=np.uint8)
    if bits == 8:
        return packed
    halves: Bytes = np.left_shift(packed[:, 1::2], 4, dtype=np.uint8) | packed[:, ::2] & 15
    return halves


def quantized_matmul(g: GraphFile, x: str, name: str, packed: PackedMatrix, bias: str) -> str:
    """x [..., columns] to [..., rows]; the order of the sums is MatMulNBits' own."""
    zeros = g.weight(f"{name}.zeros") if packed.has_zero_points else ""
    return g.op(
        "MatMulNBits",
        *(x, g.weight(name), g.weight(f"{name}.scales"), zeros, "", bias),
        domain="com.microsoft",
        K=packed.columns,
        N=packed.rows,
        bits=packed.format.bits,
        block_size=packed.group_size,
        accuracy_level=ACCURACY_LEVEL,
    )


def unpacked(g: GraphFile, name: str, packed: PackedMatrix, *, once: bool) -> str:
    """The float32 matrix [rows, columns].

    Args:
        once: from operators that ONNX Runtime computes when it loads the graph, keeping the result;
            otherwise from such that it computes at each call, freeing it after its last use.
    """

    def numbers(codes: str) -> str:
        middle = 1 << (packed.format.bits - 1)
        if once:
            floats = g.op("Cast", g.weight(codes), to=TensorProto.FLOAT)
            return g.op("Sub", floats, g.constant(middle, np.float32))
        one, zero = g.constant(1.0, np.float32), g.code(middle, packed.kind)
        return g.op("DequantizeLinear", g.weight(codes), one, zero)

    values = numbers(f"{name}.codes")
    if packed.has_zero_points:
        zeros = numbers(f"{name}.zero_codes")
        zeros = g.op("Slice", zeros, g.int64(0), g.int64(packed.groups), g.int64(1))
        values = g.op("Sub", values, g.op("Unsqueeze", zeros, g.int64(2)))
    values = g.op("Mul", values, g.weight(f"{name}.scale_column"))
    values = g.op("Reshape", values, g.int64(packed.rows, -1))
    if packed.columns == packed.groups * packed.group_size:
        return values
    return g.op("Slice", values, g.int64(0), g.int64(packed.columns), g.int64(1))
