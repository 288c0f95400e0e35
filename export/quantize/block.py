"""A block with its matrices quantized, by the method that the data allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...runtime.errors import UsageError
from ..families.tarflow import BlockWeights
from ..lazy import LazyMapping
from ..options import Method
from .calibration import BlockInputs, LayerWalk
from .formats import Format
from .gptq import gptq
from .layers import MATRICES, matrix_name, matrix_names
from .matrix import QuantizedMatrix
from .rtn import round_to_nearest

METHODS: tuple[Method, ...] = ("rtn", "gptq")


def quantize_block(
    weights: BlockWeights,
    formats: Mapping[str, Format],
    method: Method,
    inputs: BlockInputs | None = None,
) -> BlockWeights:
    """The block with ``quantized`` filled for the matrices in ``formats``; the others stay float.

    ``gptq`` goes layer by layer, so that each matrix is calibrated on what the quantized ones
    before it give: their errors are made up for. The result depends on nothing else. ``rtn`` takes
    each matrix by itself, and does so anew whenever it is asked for.

    Args:
        weights: trained; it is not changed.
        formats: by the matrix's name in ``weights.network``.
        method: ``gptq`` needs ``inputs``; ``rtn`` takes none.

    Raises:
        UsageError: a matrix that is not quantized, or inputs and method do not fit.
    """
    num_layers = sum(name.endswith("attention.qkv.weight") for name in weights.network)
    names = matrix_names(num_layers)
    if unknown := [name for name in formats if name not in names]:
        raise UsageError(f"{unknown[0]!r} is not quantized: choose from {', '.join(names)}")
    if (method == "gptq") != (inputs is not None):
        raise UsageError(f"the method {method} with{'out' if inputs is None else ''} pictures")
    if inputs is not None:
        return replace(weights, quantized=_calibrated(weights, formats, num_layers, inputs))

    def rounded(name: str) -> QuantizedMatrix:
        return round_to_nearest(weights.network[name], formats[name])

    return replace(weights, quantized=LazyMapping(formats, rounded))


def _calibrated(
    weights: BlockWeights, formats: Mapping[str, Format], num_layers: int, inputs: BlockInputs
) -> dict[str, QuantizedMatrix]:
    walk, found = LayerWalk(weights, inputs), {}
    for layer in range(num_layers):
        for matrix in MATRICES:
            name = matrix_name(layer, matrix)
            if name in formats:
                hessian = walk.hessian(matrix)
                found[name] = gptq(weights.network[name], hessian, formats[name])
                walk.replace(matrix, found[name])
        if layer + 1 < num_layers:
            walk.next_layer()
    return found
