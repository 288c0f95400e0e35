"""Operators that treat each element by itself, and reductions."""

from __future__ import annotations

from collections.abc import Callable
from math import erf as exact_erf
from math import pi, sqrt
from typing import Any

import numpy as np

from ..types import Array
from .registry import check_size, integer, integers, op

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
_UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, np.float32(0)),
}


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    """log(sum(exp(x))) without overflow."""
    largest = np.max(x, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0)
    total = np.log(np.exp(x - shift).sum(axis=axis, keepdims=True)) + shift
    return np.asarray(total if keepdims else np.squeeze(total, axis))


# ops/defs/iOS15/reduction.py
_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_l1_norm": lambda x, **along: np.abs(x).sum(**along),
    "reduce_l2_norm": lambda x, **along: np.sqrt(np.square(x).sum(**along)),
    "reduce_log_sum": lambda x, **along: np.log(np.sum(x, **along)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_sum_square": lambda x, **along: np.square(x).sum(**along),
    "reduce_mean": np.mean,
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
}


def _register_binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    def run(x: Array, y: Array) -> Array:
        if x.shape != y.shape:
            check_size(np.broadcast_shapes(x.shape, y.shape))
        return function(x, y)

    op(name)(run)


def _register_unary(name: str, function: Callable[[Array], Array]) -> None:
    def run(x: Array) -> Array:
        return function(x)

    op(name)(run)


def _register_reduction(name: str, function: Callable[..., Array]) -> None:
    def run(x: Array, axes: Array | None = None, keep_dims: Any = False) -> Array:
        chosen = None if axes is None else tuple(integers(axes))
        return function(x, axis=chosen, keepdims=bool(keep_dims))

    op(name)(run)


for _name, _binary in _BINARY.items():
    _register_binary(_name, _binary)
for _name, _unary in _UNARY.items():
    _register_unary(_name, _unary)
for _name, _reduction in _REDUCTIONS.items():
    _register_reduction(_name, _reduction)


@op("cast")
def cast(x: Array, dtype: str) -> Array:
    """The executor converts every result to its declared type, which is what dtype repeats."""
    return x


@op("clip")
def clip(x: Array, alpha: Array, beta: Array) -> Array:
    return np.clip(x, alpha, beta)


@op("rsqrt")
def rsqrt(x: Array, epsilon: Any = 1e-12) -> Array:
    return np.asarray(1 / np.sqrt(x + epsilon))


@op("inverse")
def inverse(x: Array, epsilon: Any = 1e-4) -> Array:
    return np.asarray(1 / (x + epsilon))


@op("log")
def log(x: Array, epsilon: Any = 1e-45) -> Array:
    return np.asarray(np.log(x + epsilon))


@op("leaky_relu")
def leaky_relu(x: Array, alpha: Array) -> Array:
    return np.where(x < 0, alpha * x, x)


@op("reduce_argmax")
def reduce_argmax(
    x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32"
) -> Array:
    """The executor converts indices to the declared type, which is what output_dtype repeats."""
    return np.asarray(np.argmax(x, integer(axis), keepdims=bool(keep_dims)))


@op("reduce_argmin")
def reduce_argmin(
    x: Array, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32"
) -> Array:
    return np.asarray(np.argmin(x, integer(axis), keepdims=bool(keep_dims)))


# erf at multiples of 1/64 up to 4, where it is 1 in float32, and its slope there times 1/64
_GRID = np.arange(4 * 64 + 2) / 64
_ERF = np.array([exact_erf(x) for x in _GRID])
_SLOPE = 2 / sqrt(pi) * np.exp(-(_GRID**2)) / 64


@op("erf")
def erf(x: Array) -> Array:
    """Cubic Hermite interpolation between exact values, in float64 (error about 2e-9)."""
    a = np.minimum(np.abs(x), 4.0).astype(np.float64) * 64
    a = np.where(np.isnan(a), 0, a)
    k = a.astype(np.int64)
    u, rise = a - k, _ERF[k + 1] - _ERF[k]
    d0, d1 = _SLOPE[k], _SLOPE[k + 1]
    y = _ERF[k] + u * (d0 + u * ((3 * rise - 2 * d0 - d1) + u * (d0 + d1 - 2 * rise)))
    return np.where(np.isnan(x), x, np.copysign(y, x)).astype(np.float32)


@op("gelu")
def gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + erf(x * np.float32(sqrt(0.5)))))
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(sqrt(2 / pi)) * (x + np.float32(0.044715) * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x / (1 + np.exp(np.float32(-1.702) * x)))
    raise ValueError(f"unknown mode {mode!r}")
