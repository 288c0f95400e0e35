"""Weights of an ML program: float16 constants, and quantized matrices as Core ML unpacks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from ....runtime.errors import CheckpointError
from ...families.tarflow import BlockWeights
from ...quantize.matrix import QuantizedMatrix

Array = npt.NDArray[Any]
Halfs = npt.NDArray[np.float16]
Var = Any  # a coremltools Var; the package has no type hints

MAX_HALF = 65504


@dataclass(frozen=True)
class Packed:
    """A quantized matrix as the parameters of a ``constexpr`` operator.

    Attributes:
        operator: of iOS 18: ``constexpr_blockwise_shift_scale`` or ``constexpr_lut_to_dense``.
        codes: name of the parameter that holds the codes, whose MIL type is ``code_type``.
        parameters: the codes among them, by name.
    """

    operator: str
    codes: str
    code_type: str
    parameters: Mapping[str, Array]


def pack_weights(weights: BlockWeights) -> dict[str, Halfs | Packed]:
    """Every parameter of a block by name, as it is stored.

    Raises:
        CheckpointError: a value is beyond the range of float16.
    """
    return {
        name: pack_matrix(name, weights.quantized[name])
        if name in weights.quantized
        else to_half(name, array)
        for name, array in weights.network.items()
    }


def pack_matrix(name: str, matrix: QuantizedMatrix) -> Packed:
    """The very codes of a matrix; scales, or the palette, become float16.

    Raises:
        CheckpointError: a value is beyond the range of float16.
    """
    bits = matrix.format.bits
    if matrix.palette is not None:
        # [1, 1, 2^b, 1]: one palette for both axes, entries of one value
        palette = to_half(name, matrix.palette).reshape(1, 1, -1, 1)
        parameters = {"indices": matrix.codes, "lut": palette}
        return Packed("constexpr_lut_to_dense", "indices", f"uint{bits}", parameters)
    assert matrix.scales is not None
    repeats = _blocks_in_group(matrix)
    # The largest product that the device forms is checked, not the scale alone.
    to_half(name, matrix.scales * np.float32(1 << bits - 1))
    parameters = {"data": matrix.codes, "scale": _repeat(to_half(name, matrix.scales), repeats)}
    if matrix.zero_points is not None:
        parameters["offset"] = _repeat(matrix.zero_points, repeats)
    return Packed("constexpr_blockwise_shift_scale", "data", f"int{bits}", parameters)


def _blocks_in_group(matrix: QuantizedMatrix) -> npt.NDArray[np.int64]:
    """[groups]: how many blocks of equal length each group becomes.

    Core ML's blocks divide a row, while the last group of a format may be shorter. Then smaller
    blocks with the same scale several times over say the same.
    """
    columns, size = matrix.shape[1], matrix.format.group_size
    if size is None:
        return np.ones(1, np.int64)
    starts = np.arange(0, columns, size)
    lengths = np.minimum(size, columns - starts)
    return np.asarray(lengths // gcd(*lengths.tolist()))


def _repeat(per_group: Array, repeats: npt.NDArray[np.int64]) -> Array:
    return np.ascontiguousarray(np.repeat(per_group, repeats, axis=1))


def to_half(name: str, array: npt.NDArray[np.float32]) -> Halfs:
    """Round to float16.

    Raises:
        CheckpointError: it does not fit.
    """
    largest = max(float(array.max()), -float(array.min()))  # no copy of the size of the array
    if not largest <= MAX_HALF:  # false for NaN too
        raise CheckpointError(
            f"{name} has a value of magnitude {largest:g}, above the 65504 of float16: Core ML "
            "cannot take this model"
        )
    return array.astype(np.float16, order="C")


def add_constant(mil: Any, name: str, value: Halfs | Packed) -> Var:
    """A weight in the function that is being built.

    Functions whose constants have the same ``weight_id`` share their bytes, so every parameter of a
    ``constexpr`` operator is a constant with an id of its own.
    """
    mb, label = mil.Builder, name.replace(".", "_")

    def constant(val: Array, part: str = "") -> Var:
        var = mb.const(val=val, name=label + part)
        var.op.weight_id = name + part
        return var

    if not isinstance(value, Packed):
        return constant(value)
    integers = ("offset", value.codes)  # numpy has no int4, coremltools has a marked int8
    dtype = mil.types.nptype_from_builtin(mil.types.string_to_builtin(value.code_type))
    parts = {
        key: constant(array.astype(dtype) if key in integers else array, f"_{key}")
        for key, array in value.parameters.items()
    }
    return getattr(mb, value.operator)(**parts, name=label)
