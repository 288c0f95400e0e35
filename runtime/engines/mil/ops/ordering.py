"""Sums along an axis, sorting and indices: coremltools' ``ops/defs/*/tensor_operation.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Array
from .registry import check_size, integer, op


@op("cumsum")
def cumsum(x: Array, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Array:
    """Sums up to each place; ``exclusive`` leaves the place itself out, ``reverse`` begins last."""
    along = integer(axis)
    x = np.flip(x, along) if reverse else x
    total = np.cumsum(x, along, dtype=x.dtype)
    total = total - x if exclusive else total
    return np.flip(total, along) if reverse else total


@op("argsort")
def argsort(x: Array, axis: Any = -1, ascending: Any = False) -> Array:
    """Indices that sort; equal values keep their order."""
    return np.argsort(x if ascending else -x, integer(axis), kind="stable")


@op("topk")
def topk(
    x: Array,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> Array | tuple[Array, Array]:
    """The k largest values in descending order (the smallest with ``ascending``), their indices.

    A k of -1 is all of them. The executor gives the indices their declared type.
    """
    along, count = integer(axis), integer(k)
    if not -1 <= count <= x.shape[along]:
        raise ValueError(f"the {count} largest of {x.shape[along]} values")
    order = argsort(x, along, ascending)
    order = order if count == -1 else np.take(order, np.arange(count), along)
    values = np.take_along_axis(x, order, along)
    return (values, order) if return_indices else values


@op("one_hot")
def one_hot(
    indices: Array, one_hot_vector_size: Any, axis: Any = -1, on_value: Any = 1, off_value: Any = 0
) -> Array:
    """on_value at the index along a new axis, off_value elsewhere."""
    size = integer(one_hot_vector_size)
    check_size([indices.size, size])
    hot = indices[..., None] == np.arange(size)
    return np.moveaxis(np.where(hot, on_value, off_value), -1, integer(axis))


@op("non_zero")
def non_zero(x: Array) -> Array:
    """[how many, rank] indices of what is not 0."""
    return np.argwhere(x)


@op("einsum")
def einsum(values: list[Array], equation: str) -> Array:
    """Of two tensors (``ops/defs/iOS15/linear.py``)."""
    a, b = values
    check_size([*np.broadcast_shapes(a.shape[:-3], b.shape[:-3]), *a.shape[-3:-1], b.shape[-1]])
    return np.asarray(np.einsum(equation, a, b, optimize=True))
