"""Convolutions: coremltools' ``ops/defs/iOS15/conv.py``."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..types import Array
from .registry import check_size, integer, integers, op


def window_padding(
    pad_type: str,
    pad: Array | None,
    sizes: tuple[int, ...],
    kernel: list[int],
    strides: list[int],
) -> list[tuple[int, int]]:
    """(before, after) for each spatial axis.

    Args:
        sizes: of the input.
        kernel: reach of the window, (k - 1) * dilation + 1.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom" and pad is not None:
        amounts = integers(pad)
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if pad_type in ("same", "same_lower"):
        widths = []
        for size, reach, step in zip(sizes, kernel, strides, strict=True):
            total = max(0, (-(-size // step) - 1) * step + reach - size)
            less, more = total // 2, total - total // 2
            widths.append((less, more) if pad_type == "same" else (more, less))
        return widths
    raise ValueError(f"pad_type {pad_type!r} with pad {pad} is not supported")


def _or_ones(values: Array | None, n: int) -> list[int]:
    return [1] * n if values is None else integers(values)


def _reach(kernel: tuple[int, ...], dilations: list[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def _add_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


@op("conv")
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """x [N, in, *space], weight [out, in / groups, *kernel]."""
    kernel, count = weight.shape[2:], integer(groups)
    n = len(kernel)
    stride, dilation = _or_ones(strides, n), _or_ones(dilations, n)
    reach = _reach(kernel, dilation)
    widths = window_padding(pad_type, pad, x.shape[2:], reach, stride)
    windows = sliding_window_view(
        np.pad(x, [(0, 0), (0, 0), *widths]), reach, tuple(range(2, 2 + n))
    )
    index = [slice(None)] * 2 + [slice(None, None, step) for step in (*stride, *dilation)]
    windows = windows[tuple(index)]  # [N, in, *out, *kernel]
    parts = [
        np.tensordot(w, k, ([1, *range(2 + n, 2 + 2 * n)], list(range(1, 2 + n))))
        for w, k in zip(np.split(windows, count, 1), np.split(weight, count), strict=True)
    ]
    return _add_bias(np.moveaxis(np.concatenate(parts, -1), -1, 1), bias)


@op("conv_transpose")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Array | None = None,
    output_shape: Array | None = None,
    pad_type: str = "valid",
    strides: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """x [N, in, *space], weight [in, out / groups, *kernel]; the gradient of ``conv``."""
    kernel, count = weight.shape[2:], integer(groups)
    n = len(kernel)
    stride, dilation = _or_ones(strides, n), _or_ones(dilations, n)
    reach = _reach(kernel, dilation)
    whole = [(d - 1) * s + r for d, s, r in zip(x.shape[2:], stride, reach, strict=True)]
    y = np.zeros(_checked((len(x), weight.shape[1] * count, *whole)), np.float32)
    inputs, weights = np.split(x, count, 1), np.split(weight, count)
    for place in product(*map(range, kernel)):
        steps = zip(place, dilation, x.shape[2:], stride, strict=True)
        index = tuple(slice(k * d, k * d + (m - 1) * s + 1, s) for k, d, m, s in steps)
        matrices = [np.moveaxis(w, (0, 1), (-2, -1))[place] for w in weights]  # [in, out]
        parts = [np.tensordot(a, w, ([1], [0])) for a, w in zip(inputs, matrices, strict=True)]
        y[_of_channels(index)] += np.moveaxis(np.concatenate(parts, -1), -1, 1)
    before, sizes = _cropping(pad_type, pad, output_shape, x.shape[2:], stride, whole)
    missing = [max(0, b + m - w) for b, m, w in zip(before, sizes, whole, strict=True)]
    y = np.pad(y, [(0, 0), (0, 0), *((0, m) for m in missing)])  # output_shape may go beyond
    cut = tuple(slice(b, b + m) for b, m in zip(before, sizes, strict=True))
    return _add_bias(y[_of_channels(cut)], bias)


def _of_channels(index: tuple[slice, ...]) -> tuple[slice, ...]:
    """An index of *space for all N and C."""
    return (slice(None), slice(None), *index)


def _cropping(
    pad_type: str,
    pad: Array | None,
    output_shape: Array | None,
    sizes: tuple[int, ...],
    strides: list[int],
    whole: list[int],
) -> tuple[list[int], list[int]]:
    """Where the result begins in the whole one, and how long it is."""
    if pad_type == "custom" and pad is not None:
        amounts = integers(pad)
        before, after = amounts[::2], amounts[1::2]
    elif pad_type == "valid":
        before = after = [0] * len(whole)
    elif pad_type == "same":
        over = [w - d * s for w, d, s in zip(whole, sizes, strides, strict=True)]
        before = [max(0, o) // 2 for o in over]
        after = [o - b for o, b in zip(over, before, strict=True)]
    else:
        raise ValueError(f"pad_type {pad_type!r} with pad {pad} is not supported")
    if output_shape is not None:
        return before, _checked(integers(output_shape)[2:])
    return before, [w - b - a for w, b, a in zip(whole, before, after, strict=True)]


def _checked(shape: list[int] | tuple[int, ...]) -> list[int]:
    check_size(shape)
    return list(shape)
