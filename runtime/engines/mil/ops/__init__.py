"""The operators that the interpreter knows; importing the package registers all of them.

An operator is a function whose parameters are named as in MIL. Float tensors come and go as float32
arrays (see ``types``), and the executor rounds what the program declares float16.
"""

from . import (
    activations,
    constexpr,
    convolution,
    elementwise,
    movement,
    network,
    normalization,
    ordering,
    pooling,
    resizing,
    scatter,
)
from .registry import OPS, Op, find_op

__all__ = [
    "OPS",
    "Op",
    "activations",
    "constexpr",
    "convolution",
    "elementwise",
    "find_op",
    "movement",
    "network",
    "normalization",
    "ordering",
    "pooling",
    "resizing",
    "scatter",
]
