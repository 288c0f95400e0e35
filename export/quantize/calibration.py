"""What a block reads when pictures are encoded, and the Hessians of its linears, layer by layer.

In sampling a block reads the same as here, provided that the picture is the model's own: encoding
is teacher forcing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...runtime.spec import ARBlock
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights, TarFlowConfig
from ..reference import ReferenceBlock
from .data import PictureSet
from .likelihood import batches, encode_block
from .matrix import QuantizedMatrix

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """Calibration pictures where they enter a block.

    Attributes:
        config: of the model.
        x: [N, T, D] in the block's own order.
        labels: N of them.
    """

    config: TarFlowConfig
    x: Floats
    labels: tuple[int | None, ...]


def collect_inputs(checkpoint: Checkpoint, pictures: PictureSet) -> dict[int, BlockInputs]:
    """Inputs of each block by its number, from the float32 model, one block in memory at a time."""
    x, found = pictures.patches, {}
    for stage in reversed(checkpoint.config.flow_spec().ar_blocks):
        found[stage.block] = block_inputs(checkpoint, stage, x, pictures)
        if stage.block + 1 < checkpoint.config.num_blocks:
            x, _ = encode_block(ReferenceBlock(checkpoint, stage), x, pictures.labels)
    return found


def block_inputs(
    checkpoint: Checkpoint, stage: ARBlock, x: Floats, pictures: PictureSet
) -> BlockInputs:
    """What enters a block, from [N, T, D] in image order."""
    own = x[:, ::-1].copy() if stage.permutation == "flip" else x
    return BlockInputs(checkpoint.config, own, pictures.labels)


class LayerWalk:
    """Takes calibration pictures through a block one layer after another.

    Only the hidden states [N, T, C] and one Hessian are in memory beside the weights. Matrices
    that are replaced on the way change what the later ones read.
    """

    def __init__(self, weights: BlockWeights, inputs: BlockInputs) -> None:
        module = weights.module(inputs.config)
        self._layers, self._layer = list(module.attn_blocks), 0
        rows = np.array([-1 if label is None else label for label in inputs.labels])
        self._hidden = []
        for pictures in batches(*inputs.x.shape[:2]):
            context = weights.pos[None] + weights.classes[rows[pictures]][:, None]
            x = torch.from_numpy(inputs.x[pictures])
            self._hidden.append(module.proj_in(x) + torch.from_numpy(context))

    def hessian(self, matrix: str) -> Tensor:
        """[in, in] mean of x x^T over the inputs x of a linear of this layer.

        Args:
            matrix: its name in the layer, such as ``mlp.main.0``.
        """
        linear = self._linear(matrix)
        total, count = torch.zeros(linear.in_features, linear.in_features), 0
        for hidden in self._hidden:
            x = self._input(linear, hidden).flatten(0, -2)
            total.addmm_(x.T, x)
            count += len(x)
        return total / count

    def largest_outputs(self, matrix: str) -> Tensor:
        """[out] largest absolute value of each output of a linear of this layer."""
        linear = self._linear(matrix)
        largest = torch.zeros(linear.out_features)
        for hidden in self._hidden:
            found = linear(self._input(linear, hidden)).abs().flatten(0, -2)
            largest = torch.maximum(largest, found.amax(0))
        return largest

    def replace(self, matrix: str, quantized: QuantizedMatrix) -> None:
        """Go on with what a quantized matrix stands for; the block's arrays stay as they are."""
        values = torch.from_numpy(quantized.dequantized())
        self._linear(matrix).weight = nn.Parameter(values, requires_grad=False)

    def next_layer(self) -> None:
        """Take the hidden states through this layer, which is let go."""
        layer = self._layers[self._layer]
        for i, hidden in enumerate(self._hidden):
            self._hidden[i] = layer(hidden, None, None)[0]
        self._layers[self._layer] = nn.Identity()  # lets go of replaced matrices
        self._layer += 1

    def _input(self, linear: nn.Linear, hidden: Tensor) -> Tensor:
        """What the linear reads when the layer reads ``hidden``."""
        handle = linear.register_forward_pre_hook(_stop)
        try:
            self._layers[self._layer](hidden, None, None)
        except _StopError as stop:
            return stop.x
        finally:
            handle.remove()
        raise AssertionError("a layer uses all its linears")

    def _linear(self, matrix: str) -> nn.Linear:
        linear = self._layers[self._layer].get_submodule(matrix)
        assert isinstance(linear, nn.Linear)
        return linear


class _StopError(Exception):
    """Carries the input of a linear out of its layer, which need not be computed further."""

    def __init__(self, x: Tensor) -> None:
        super().__init__("stopped before a linear")
        self.x = x


def _stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _StopError(inputs[0])
