"""Operators of neural networks: linear maps, convolution, normalization, attention."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..types import Array
from .registry import check_size, integer, integers, op


@op("linear")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x [..., in], weight [out, in], bias [out]."""
    y = x.reshape(-1, x.shape[-1]) @ weight.T  # one product, whatever the leading dimensions are
    if bias is not None:
        y += bias
    result: Array = y.reshape(*x.shape[:-1], len(weight))
    return result


@op("matmul")
def matmul(x: Array, y: Array, transpose_x: Any = False, transpose_y: Any = False) -> Array:
    x = x.swapaxes(-1, -2) if transpose_x else x
    y = y.swapaxes(-1, -2) if transpose_y else y
    if x.ndim > 1 and y.ndim > 1:
        leading = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        check_size([*leading, x.shape[-2], y.shape[-1]])
    result: Array = x @ y
    return result


@op("softmax")
def softmax(x: Array, axis: Any = -1) -> Array:
    along = integer(axis)
    e = np.exp(x - x.max(along, keepdims=True))
    result: Array = e / e.sum(along, keepdims=True)
    return result


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None = None
) -> Array:
    """query [..., L, d], key and value [..., S, d]; the mask is added, or true where visible."""
    scores = matmul(query, key, transpose_y=True) / np.float32(sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, -np.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return matmul(softmax(scores), value)


@op("layer_norm")
def layer_norm(
    x: Array,
    axes: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    along = tuple(integers(axes))
    centred = x - x.mean(along, keepdims=True)
    variance = np.square(centred).mean(along, keepdims=True)
    y: Array = centred / np.sqrt(variance + np.float32(epsilon))
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@op("conv")
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Any = 1,
) -> Array:
    """x [N, in, *space], weight [out, in / groups, *kernel]."""
    spatial, count = weight.shape[2:], integer(groups)
    n = len(spatial)
    axes = tuple(range(2, 2 + n))
    stride = [1] * n if strides is None else integers(strides)
    dilation = [1] * n if dilations is None else integers(dilations)
    x = np.pad(x, [(0, 0), (0, 0), *_conv_padding(pad_type, pad, x, spatial, stride, dilation)])
    reach = [(k - 1) * d + 1 for k, d in zip(spatial, dilation, strict=True)]
    windows = sliding_window_view(x, reach, axes)
    index = [slice(None)] * 2 + [slice(None, None, step) for step in (*stride, *dilation)]
    windows = windows[tuple(index)]  # [N, in, *out, *kernel]
    parts = [
        np.tensordot(w, k, ([1, *range(2 + n, 2 + 2 * n)], list(range(1, 2 + n))))
        for w, k in zip(np.split(windows, count, 1), np.split(weight, count), strict=True)
    ]
    y = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * n)


def _conv_padding(
    pad_type: str,
    pad: Array | None,
    x: Array,
    spatial: tuple[int, ...],
    stride: list[int],
    dilation: list[int],
) -> list[tuple[int, int]]:
    n = len(spatial)
    if pad_type == "valid":
        return [(0, 0)] * n
    if pad_type == "custom" and pad is not None:
        amounts = integers(pad)
        return [(amounts[2 * i], amounts[2 * i + 1]) for i in range(n)]
    if pad_type in ("same", "same_lower"):
        widths = []
        for size, k, s, d in zip(x.shape[2:], spatial, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            less, more = total // 2, total - total // 2
            widths.append((less, more) if pad_type == "same" else (more, less))
        return widths
    raise ValueError(f"pad_type {pad_type!r} with pad {pad} is not supported")
