"""Pooling: coremltools' ``ops/defs/iOS15/pool.py``. x is [N, C, *space], kernels are of *space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..types import Array
from .convolution import window_padding
from .registry import check_size, integers, op

Widths = list[tuple[int, int]]


class _Windows:
    """Where the windows of one pooling operation lie.

    Attributes:
        padding: what the program asks for, on each spatial axis.
        overhang: what ``ceil_mode`` adds after it, which counts in no average.
    """

    def __init__(
        self,
        x: Array,
        kernel_sizes: Array,
        strides: Array | None,
        pad_type: str,
        pad: Array | None,
        ceil_mode: Any,
    ) -> None:
        self.kernel, sizes = integers(kernel_sizes), x.shape[2:]
        self.strides = [1] * len(sizes) if strides is None else integers(strides)
        self.padding = window_padding(pad_type, pad, sizes, self.kernel, self.strides)
        self.overhang: Widths = [(0, 0)] * len(sizes)
        if ceil_mode:
            lengths = zip(sizes, self.padding, self.kernel, self.strides, strict=True)
            self.overhang = [(0, _overhang(n, p, k, s)) for n, p, k, s in lengths]

    def of(self, x: Array, value: float, overhang: float) -> Array:
        """[N, C, *out, *kernel] views of x with one value as padding, another as overhang."""
        none = [(0, 0), (0, 0)]
        both = zip(x.shape[2:], self.padding, self.overhang, strict=True)
        check_size([*x.shape[:2], *(n + p[0] + p[1] + o[1] for n, p, o in both)])
        x = np.pad(x, none + self.padding, constant_values=value)
        x = np.pad(x, none + self.overhang, constant_values=overhang)
        axes = tuple(range(2, x.ndim))
        windows = sliding_window_view(x, self.kernel, axes)
        index = [slice(None)] * 2 + [slice(None, None, step) for step in self.strides]
        strided: Array = windows[tuple(index)]
        return strided

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the kernel in what of() gives."""
        return tuple(range(-len(self.kernel), 0))


def _overhang(size: int, padding: tuple[int, int], kernel: int, stride: int) -> int:
    """Rows after the padding that the last window of ``ceil_mode`` needs."""
    length = size + padding[0] + padding[1]
    count = -(-(length - kernel) // stride) + 1
    if (count - 1) * stride >= size + padding[0] and any(padding):
        count -= 1
    return max(0, (count - 1) * stride + kernel - length)


@op("max_pool", moves=True)
def max_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    ceil_mode: Any = False,
) -> Array:
    """The largest value of each window; padding is never the largest."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    largest: Array = windows.of(x, -np.inf, -np.inf).max(windows.axes)
    return largest


@op("avg_pool")
def avg_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    exclude_padding_from_average: Any = False,
    ceil_mode: Any = False,
) -> Array:
    """The mean of each window, in which padding counts as zeros or not at all."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = float(not exclude_padding_from_average)
    counts = windows.of(np.ones((1, 1, *x.shape[2:]), np.float32), counted, 0).sum(windows.axes)
    mean: Array = windows.of(x, 0, 0).sum(windows.axes) / counts
    return mean


@op("l2_pool")
def l2_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    ceil_mode: Any = False,
) -> Array:
    """The root of the sum of squares of each window."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.asarray(np.sqrt(np.square(windows.of(x, 0, 0)).sum(windows.axes)))
