"""Values from and to places given by indices: coremltools' ``ops/defs/*/scatter_gather.py``.

Indices outside a tensor are always an error here, whatever ``validate_indices`` says: a device may
read anything there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Array
from .registry import check_size, integer, op

_UPDATES: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@op("gather", moves=True)
def gather(
    x: Array,
    indices: Array,
    axis: Any = 0,
    batch_dims: Any = 0,
    validate_indices: Any = False,
) -> Array:
    """Slices of x along an axis; the first ``batch_dims`` axes of both belong together."""
    batch, along, numbers = integer(batch_dims), integer(axis) % x.ndim, indices.astype(np.int64)
    leading = x.shape[:batch]
    if indices.shape[:batch] != leading or along < batch:
        raise ValueError(f"batch_dims {batch} of {x.shape} and {indices.shape} on axis {along}")
    check_size([*x.shape[:along], *indices.shape[batch:], *x.shape[along + 1 :]])
    if not batch:
        return np.take(x, numbers, along)
    found = [np.take(x[i], numbers[i], along - batch) for i in np.ndindex(*leading)]
    return np.stack(found).reshape(*leading, *found[0].shape)


@op("gather_along_axis", moves=True)
def gather_along_axis(
    x: Array, indices: Array, axis: Any = 0, validate_indices: Any = False
) -> Array:
    return np.take_along_axis(x, indices.astype(np.int64), integer(axis))


@op("gather_nd", moves=True)
def gather_nd(
    x: Array, indices: Array, batch_dims: Any = 0, validate_indices: Any = False
) -> Array:
    """indices [..., K]: each row is a place on the first K axes after ``batch_dims``."""
    batch, numbers = integer(batch_dims), indices.astype(np.int64)
    leading = x.shape[:batch]
    if indices.shape[:batch] != leading:
        raise ValueError(f"batch_dims {batch} of {x.shape} and {indices.shape}")
    check_size([*indices.shape[:-1], *x.shape[batch + indices.shape[-1] :]])
    found = [x[i][tuple(np.moveaxis(numbers[i], -1, 0))] for i in np.ndindex(*leading)]
    return np.stack(found).reshape(*leading, *found[0].shape)


def _update(data: Array, where: Any, updates: Array, mode: str) -> Array:
    result = np.array(data)
    if mode == "update":
        result[where] = updates
    elif mode in _UPDATES:
        _UPDATES[mode].at(result, where, updates)
    else:
        raise ValueError(f"the mode {mode!r} is not supported")
    return result


@op("scatter")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Array:
    """Slices along an axis are updated."""
    before = [slice(None)] * (integer(axis) % data.ndim)
    return _update(data, (*before, indices.astype(np.int64)), updates, mode)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Array:
    """updates[i, j, k] goes to the place that has indices[i, j, k] on the axis."""
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[integer(axis)] = indices.astype(np.int64)
    return _update(data, tuple(where), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Array,
    indices: Array,
    updates: Array,
    mode: str = "add",
    validate_indices: Any = False,
) -> Array:
    """indices [..., K]: each row is a place on the first K axes."""
    where = tuple(np.moveaxis(indices.astype(np.int64), -1, 0))
    return _update(data, where, updates, mode)
