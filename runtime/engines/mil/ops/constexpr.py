"""Operators that unpack compressed weights; they run once for all functions of a package."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..types import DTYPES, Array, unpack_bits
from .registry import check_size, integer, integers, op

_UNSIGNED = {d.bits: d for d in DTYPES.values() if d.name.startswith("uint") and d.bits <= 8}


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Repeat one value for each block of a tensor until it has the tensor's shape."""
    if blocks.ndim != len(shape):
        raise ValueError(f"blocks of shape {blocks.shape} for a tensor of shape {shape}")
    for axis, (whole, parts) in enumerate(zip(shape, blocks.shape, strict=True)):
        if parts == 0 or whole % parts:
            raise ValueError(f"{parts} blocks do not divide an axis of {whole}")
        if whole != parts:
            blocks = np.repeat(blocks, whole // parts, axis)
    return blocks


@op("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """(data - offset) * scale; scale and offset have one value for each block."""
    values = data.astype(np.float32)
    if offset is not None:
        values -= _spread(offset.astype(np.float32), data.shape)
    values *= _spread(scale, data.shape)
    return values


@op("constexpr_affine_dequantize")
def affine_dequantize(
    quantized_data: Array, scale: Array, zero_point: Array, axis: Any = 0
) -> Array:
    """(data - zero_point) * scale, one value for all or one for each index of an axis."""
    along = [1] * quantized_data.ndim
    along[integer(axis)] = -1
    zero = zero_point.astype(np.float32).reshape(along if zero_point.ndim else ())
    factor = scale.reshape(along if scale.ndim else ())
    return np.asarray((quantized_data.astype(np.float32) - zero) * factor)


@op("constexpr_lut_to_dense", moves=True)
def lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Any = None
) -> Array:
    """Look every index up in its palette.

    iOS 16: one palette [2^b] and the packed indices of a tensor of ``shape``. iOS 18: palettes
    [*groups, 2^b, v] and indices in the tensor's shape, its ``vector_axis`` v times shorter.
    """
    if shape is not None:
        return _packed_lut(indices, lut, integers(shape))
    *groups, size, vector = lut.shape
    palettes = lut.reshape(-1, size, vector)
    if len(palettes) == 1 and vector == 1:
        return palettes[0, :, 0][indices]
    number = _spread(np.arange(len(palettes)).reshape(groups), indices.shape)
    check_size([*indices.shape, vector])
    dense = palettes[number, indices]  # [*indices.shape, v]
    if vector == 1:
        return np.ascontiguousarray(dense[..., 0])
    axis = integer(vector_axis) % indices.ndim
    dense = np.moveaxis(dense, -1, axis + 1)
    longer = list(indices.shape)
    longer[axis] *= vector
    return dense.reshape(longer)


def _packed_lut(indices: Array, lut: Array, shape: list[int]) -> Array:
    bits = int(lut.size).bit_length() - 1
    if bits not in _UNSIGNED or lut.size != 1 << bits:
        raise ValueError(f"a palette of {lut.size} entries, expected 2, 4, 8, 16, 64 or 256")
    check_size(shape)
    dtype, count = _UNSIGNED[bits], prod(shape)
    if indices.nbytes != dtype.nbytes(count):
        raise ValueError(f"{indices.nbytes} bytes of indices for {count} values of {bits} bits")
    numbers = indices.ravel() if bits == 8 else unpack_bits(indices.ravel(), count, dtype)
    return np.ascontiguousarray(lut.ravel()[numbers].reshape(shape))


@op("constexpr_sparse_to_dense", moves=True)
def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """Put the values where the mask is 1; zeros elsewhere. iOS 16 has packed masks and a shape."""
    if shape is not None:
        wanted = integers(shape)
        check_size(wanted)
        mask = unpack_bits(mask.ravel(), prod(wanted), _UNSIGNED[1]).reshape(wanted)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask.astype(bool)] = nonzero_data
    return dense


@op("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """The executor converts to the declared type."""
    return source_val
