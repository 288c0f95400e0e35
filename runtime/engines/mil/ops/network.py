"""Linear maps and attention: coremltools' ``iOS15/linear.py`` and ``iOS18/transformers.py``."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from ..types import Array
from .registry import check_size, integer, op


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
