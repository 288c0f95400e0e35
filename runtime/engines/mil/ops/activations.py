"""Activations, each the op of its name in coremltools' ``ops/defs/iOS15/activation.py``.

Parameters that MIL names alpha and beta are numbers, or one for each channel (axis 1) where the
docstring has [C].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import Array
from .registry import op


def _per_channel(values: Array, x: Array) -> Array:
    """[C] to [1, C, 1, ...] of the rank of x."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


@op("relu6")
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return np.clip(x, 0, 6)


@op("elu")
def elu(x: Array, alpha: Any = 1) -> Array:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@op("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """x where it is positive, else alpha [C] * x."""
    return np.asarray(np.where(x > 0, x, _per_channel(alpha, x) * x))


@op("clamped_relu")
def clamped_relu(x: Array, alpha: Any, beta: Any) -> Array:
    """min(beta, x) where x is at least 0, else min(beta, alpha * x)."""
    return np.asarray(np.minimum(beta, np.where(x >= 0, x, alpha * x)))


@op("thresholded_relu")
def thresholded_relu(x: Array, alpha: Any = 1) -> Array:
    """x where it is at least alpha, else 0."""
    return np.where(x >= alpha, x, 0)


@op("sigmoid_hard")
def sigmoid_hard(x: Array, alpha: Any = 0.2, beta: Any = 0.5) -> Array:
    """min(max(alpha * x + beta, 0), 1)."""
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


@op("linear_activation")
def linear_activation(x: Array, alpha: Any, beta: Any = 0) -> Array:
    """alpha * x + beta."""
    return np.asarray(alpha * x + beta)


@op("scaled_tanh")
def scaled_tanh(x: Array, alpha: Any = 1, beta: Any = 1) -> Array:
    """alpha * tanh(beta * x)."""
    return np.asarray(alpha * np.tanh(beta * x))


@op("softsign")
def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return np.asarray(x / (1 + np.abs(x)))


@op("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha [C] * log(1 + exp(beta [C] * x))."""
    scaled = np.logaddexp(_per_channel(beta, x) * x, np.float32(0))
    return np.asarray(_per_channel(alpha, x) * scaled)


@op("threshold")
def threshold(x: Array, alpha: Any) -> Array:
    """max(x, alpha) (of ``elementwise_unary.py``)."""
    return np.asarray(np.maximum(x, alpha))
