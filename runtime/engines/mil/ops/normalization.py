"""Normalizations: coremltools' ``ops/defs/iOS15/normalization.py``. Channels are axis 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Array
from .registry import integers, op


@op("layer_norm")
def layer_norm(
    x: Array,
    axes: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    """Zero mean and unit variance over ``axes``; gamma and beta have their shape."""
    y = _standardize(x, tuple(integers(axes)), epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@op("instance_norm")
def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Any = 1e-5
) -> Array:
    """Zero mean and unit variance over the space of x [N, C, *space]; gamma and beta [C]."""
    return _affine(_standardize(x, tuple(range(2, x.ndim)), epsilon), gamma, beta)


@op("batch_norm")
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta; statistics and parameters [C]."""
    centred = x - _channels(mean, x)
    scaled = centred / np.sqrt(_channels(variance, x) + np.float32(epsilon))
    return _affine(scaled, gamma, beta)


@op("l2_norm")
def l2_norm(x: Array, epsilon: Any = 1e-6) -> Array:
    """x / sqrt(sum of squares + epsilon) over the last three axes."""
    total = np.square(x).sum((-3, -2, -1), keepdims=True)
    return np.asarray(x / np.sqrt(total + np.float32(epsilon)))


def _standardize(x: Array, axes: tuple[int, ...], epsilon: Any) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    variance = np.square(centred).mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + np.float32(epsilon)))


def _channels(values: Array, x: Array) -> Array:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _affine(y: Array, gamma: Array | None, beta: Array | None) -> Array:
    y = y if gamma is None else y * _channels(gamma, y)
    return y if beta is None else y + _channels(beta, y)
