"""Operators that move values and compute nothing: coremltools' ``tensor_transformation.py``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..types import Array
from .registry import check_size, integer, integers, op


@op("identity", moves=True)
def identity(x: Array) -> Array:
    return x


@op("reshape", moves=True)
def reshape(x: Array, shape: Array) -> Array:
    """0 keeps the dimension, -1 is what is left."""
    wanted = integers(shape)
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(wanted)])


@op("transpose", moves=True)
def transpose(x: Array, perm: Array) -> Array:
    return np.transpose(x, integers(perm))


@op("expand_dims", moves=True)
def expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(integers(axes)))


@op("squeeze", moves=True)
def squeeze(x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(integers(axes)))


@op("concat", moves=True)
def concat(values: list[Array], axis: Array, interleave: Any = False) -> Array:
    """``interleave`` (tensors of one shape) takes the first slice of each, then the second, ..."""
    if interleave:
        along = integer(axis) % values[0].ndim
        shape = list(values[0].shape)
        shape[along] *= len(values)
        return np.stack(values, along + 1).reshape(shape)
    return np.concatenate([np.atleast_1d(v) for v in values], integer(axis))


@op("stack", moves=True)
def stack(values: list[Array], axis: Array) -> Array:
    return np.stack(values, integer(axis))


@op("split", moves=True)
def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(integers(split_sizes))[:-1], integer(axis)))
    if num_splits is None:
        raise ValueError("neither num_splits nor split_sizes is given")
    return tuple(np.split(x, integer(num_splits), integer(axis)))


@op("tile", moves=True)
def tile(x: Array, reps: Array) -> Array:
    repeats = integers(reps)
    check_size([n * r for n, r in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


@op("reverse", moves=True)
def reverse(x: Array, axes: Array | None = None) -> Array:
    return np.flip(x, None if axes is None else tuple(integers(axes)))


@op("select", moves=True)
def select(cond: Array, a: Array, b: Array) -> Array:
    check_size(np.broadcast_shapes(cond.shape, a.shape, b.shape))
    return np.where(cond, a, b)


@op("shape")
def shape(x: Array) -> Array:
    return np.array(x.shape, np.int32)


@op("fill")
def fill(shape: Array, value: Array) -> Array:
    wanted = integers(shape)
    check_size(wanted)
    return np.full(wanted, value)


@op("fill_like")
def fill_like(ref_tensor: Array, value: Array) -> Array:
    return np.full(ref_tensor.shape, value)


@op("range_1d")
def range_1d(start: Array, end: Array, step: Array) -> Array:
    first, last, stride = start.item(), end.item(), step.item()
    if stride == 0:
        raise ValueError("a range with step 0")
    check_size([max(0, int((last - first) / stride) + 1)])
    return np.arange(first, last, stride)


_PAD_MODES: dict[str, Literal["constant", "reflect", "edge"]] = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
}


@op("pad", moves=True)
def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Any = 0) -> Array:
    """``pad`` holds two numbers for each of the last axes; constant, reflect or replicate."""
    if mode not in _PAD_MODES:
        raise ValueError(f"the mode {mode!r} is not supported")
    amounts = pad.reshape(-1, 2)
    widths = [(0, 0)] * (x.ndim - len(amounts)) + [(int(a), int(b)) for a, b in amounts]
    check_size([n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)])
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, _PAD_MODES[mode])


@op("band_part", moves=True)
def band_part(x: Array, lower: Any = -1, upper: Any = -1) -> Array:
    """Zero outside a band around the diagonal; -1 keeps a whole side."""
    below, above = integer(lower), integer(upper)
    x = np.triu(x, -below) if below >= 0 else x
    return np.tril(x, above) if above >= 0 else x


Index = tuple[slice | int, ...]


def _index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None,
    begin_mask: Array | None,
    end_mask: Array | None,
    squeeze_mask: Array | None,
) -> Index:
    """MIL's slice parameters as a numpy index; a mask says that a begin or end is not looked at."""
    n = x.ndim
    first, last = integers(begin), integers(end)
    steps = [1] * n if stride is None else integers(stride)
    masks = ([False] * n if m is None else m.ravel() for m in (begin_mask, end_mask, squeeze_mask))
    open_first, open_last, single = masks
    if not len(first) == len(last) == len(steps) == n:
        raise ValueError(f"begin, end and stride need one number for each of {n} axes")
    return tuple(
        first[i]
        if single[i]
        else slice(None if open_first[i] else first[i], None if open_last[i] else last[i], steps[i])
        for i in range(n)
    )


@op("slice_by_index", moves=True)
def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    result: Array = x[_index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]
    return result


@op("slice_by_size", moves=True)
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """A size of -1 reaches to the end; a slice may not leave the tensor."""
    ranges = zip(integers(begin), integers(size), x.shape, strict=True)
    bounds = [(b, n if s == -1 else b + s, n) for b, s, n in ranges]
    if any(not 0 <= b <= e <= n for b, e, n in bounds):
        raise ValueError(f"the slice {bounds} (begin, end, length) leaves the tensor")
    result: Array = x[tuple(slice(b, e) for b, e, _ in bounds)]
    return result


@op("slice_update", moves=True)
def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    index = _index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if x[index].shape != update.shape:
        raise ValueError(f"the slice has the shape {x[index].shape}, the update {update.shape}")
    result = np.array(x)
    result[index] = update
    return result
