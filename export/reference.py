"""The trained model in float32 torch, block by block or layer by layer: what exports are compared
with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..runtime.errors import CheckpointError
from ..runtime.spec import ARBlock
from .checkpoint import Checkpoint
from .families.tarflow import BlockWeights, KVCache, TarFlowBlock, TarFlowConfig

Floats = npt.NDArray[np.float32]


class ReferenceBlock:
    """One block of the checkpoint as a float32 torch module with its tables.

    Args:
        weights: what to run in place of the checkpoint's own, quantized matrices as the values
            that they stand for.
    """

    def __init__(
        self, checkpoint: Checkpoint, block: ARBlock, weights: BlockWeights | None = None
    ) -> None:
        self.block = block
        self.weights = (weights or checkpoint.block(block.block)).dequantized()
        self.module: TarFlowBlock = self.weights.module(checkpoint.config)

    def context(self, labels: Sequence[int | None]) -> Floats:
        """[N, T, C] position + class rows."""
        last = len(self.weights.classes) - 1
        rows = self.weights.classes[[last if label is None else label for label in labels]]
        return self.weights.pos[None] + rows[:, None]

    @torch.no_grad()
    def parameters(self, x: Floats, context: Floats) -> tuple[Floats, Floats]:
        """(xa, xb) [N, W, D] of known patches from position 0 on, in one pass."""
        window = x.shape[1]
        xa, xb, _ = self.module(torch.from_numpy(x), torch.from_numpy(context[:, :window]))
        return xa.numpy(), xb.numpy()

    @torch.no_grad()
    def decode(self, z: Floats, labels: Sequence[int | None]) -> Floats:
        """[N, T, D] in image order: the block's inverse, patch by patch."""
        flip = self.block.permutation == "flip"
        x = torch.from_numpy(z[:, ::-1].copy() if flip else z.copy())
        context = torch.from_numpy(self.context(labels))
        past: KVCache | None = None
        for i in range(x.shape[1] - 1):
            xa, xb, past = self.module(x[:, i : i + 1], context[:, i : i + 1], past)
            x[:, i + 1] = x[:, i + 1] * xa[:, 0].exp() + xb[:, 0]
        return x.flip(1).numpy() if flip else x.numpy()

    def encode(self, x: Floats, labels: Sequence[int | None]) -> tuple[Floats, Floats]:
        """[N, T, D] in image order to (z, xa), xa in the block's order with its row 0 zero."""
        flip = self.block.permutation == "flip"
        x = x[:, ::-1].copy() if flip else x
        found_a, found_b = self.parameters(x, self.context(labels))
        xa, xb = np.zeros_like(x), np.zeros_like(x)
        xa[:, 1:], xb[:, 1:] = found_a[:, :-1], found_b[:, :-1]
        z = (x - xb) * np.exp(-xa)
        return (z[:, ::-1].copy() if flip else z), xa


class LayeredReference:
    """One block in float32 torch with one layer in memory at a time; activations are handed on.

    Args:
        weights: quantized matrices count as the values that they stand for.
    """

    def __init__(self, config: TarFlowConfig, block: ARBlock, weights: BlockWeights) -> None:
        self.config, self.block, self.weights = config, block, weights
        self._layers = [f"attn_blocks.{i}" for i in range(config.layers_per_block)]

    def context(self, rows: Sequence[int]) -> Floats:
        """[N, T, C] position rows with the class rows of these numbers (-1: unconditional)."""
        return self.weights.pos[None] + self.weights.classes[list(rows)][:, None]

    def parameters(self, x: Floats, context: Floats, q_scale: Floats) -> Floats:
        """[N, W, 2D] xa and xb of known patches from position 0 on; q_scale [N] is on queries."""
        *_, h = self._hidden(x, context, torch.from_numpy(q_scale))
        y = self._part("proj_out")(h)
        ab: Tensor = y if self.config.nvp else torch.cat([torch.zeros_like(y), y], -1)
        return ab.numpy()

    def gradient(self, x: Floats, context: Floats, grad_xa: Floats, grad_xb: Floats) -> Floats:
        """[T, D] vector-Jacobian product of (xa, xb) by x; all arguments are [T, D] or [T, C].

        Layers are made again on the way back: only what each of them reads is kept.
        """
        *inputs, last = self._hidden(x[None], context[None], None)
        outer = np.concatenate([grad_xa, grad_xb], -1) if self.config.nvp else grad_xb
        grad = _pull_back(self._part("proj_out"), last, torch.from_numpy(outer[None]))
        for name, h in zip(reversed(self._layers), reversed(inputs), strict=True):
            grad = _pull_back(self._layer(name, None), h, grad)
        first = torch.from_numpy(x[None])
        return _pull_back(self._part("proj_in"), first, grad)[0].numpy()

    def _hidden(self, x: Floats, context: Floats, q_scale: Tensor | None) -> Iterator[Tensor]:
        """[N, W, C]: what each layer reads and, last, what proj_out reads."""
        h = self._part("proj_in")(torch.from_numpy(x)) + torch.from_numpy(context)
        yield h
        for name in self._layers:
            h = self._layer(name, q_scale)(h)
            yield h

    def _layer(self, name: str, q_scale: Tensor | None) -> Callable[[Tensor], Tensor]:
        layer = self._part(name)
        return lambda h: layer(h, None, q_scale)[0]

    def _part(self, name: str) -> nn.Module:
        return self.weights.part(self.config, name)


def _pull_back(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_(True)
    (found,) = torch.autograd.grad(function(leaf), [leaf], grad)
    return found


def reference_decode(checkpoint: Checkpoint, z: Floats, labels: Sequence[int | None]) -> Floats:
    """[N, T, D] latents z to patches through all blocks, one block in memory at a time.

    Raises:
        CheckpointError: the model gives NaN or infinity.
    """
    for stage in checkpoint.config.flow_spec().ar_blocks:
        z = ReferenceBlock(checkpoint, stage).decode(z, labels)
        if not np.isfinite(z).all():
            raise CheckpointError(
                f"{checkpoint.source.file}: the model itself gives NaN or infinity in {stage.name} "
                "when it decodes standard normal noise: it is untrained or its training diverged"
            )
    return z


def reference_encode(
    checkpoint: Checkpoint, patches: Floats, labels: Sequence[int | None]
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """[N, T, D] patches to latents z and logdet [N] (mean over dimensions)."""
    logdet = np.zeros(len(patches))
    for stage in reversed(checkpoint.config.flow_spec().ar_blocks):
        patches, xa = ReferenceBlock(checkpoint, stage).encode(patches, labels)
        logdet -= xa.mean(axis=(1, 2), dtype=np.float64)
    return patches, logdet
