"""What flowship is compared with: the published way to sample a TarFlow, in PyTorch eager mode.

``sequential`` is the algorithm of apple/ml-tarflow's ``Model.reverse``, written anew: patch by
patch, keys and values in lists that every layer concatenates at every patch, guidance as a second
pass with lists of its own. ``gs_jacobi`` is GS-Jacobi (arXiv 2505.12849): a block in windows, each
swept with Jacobi iterations. The weights come from the checkpoint; torch is needed for this alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..runtime.errors import MissingExtraError, UsageError
from ..runtime.guidance import Guidance
from ..runtime.images import unpatchify
from ..runtime.spec import ARBlock, FlowSpec

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Schedule:
    """GS-Jacobi's settings: windows in a block and at most so many sweeps in each.

    The authors' best for AFHQ-256, [7-8-32-10], is the default: the block next to the noise in 8
    windows with up to 32 sweeps, all others whole with up to 10, iterates clipped to [-3, 3]. A
    window as long as its sweeps is exact, so no more are done than it has patches.
    """

    tough_windows: int = 8
    tough_sweeps: int = 32
    sweeps: int = 10
    clip: float = 3.0

    def __post_init__(self) -> None:
        if min(self.tough_windows, self.tough_sweeps, self.sweeps) < 1 or not self.clip > 0:
            raise UsageError(f"{self}: windows and sweeps are at least 1, clip is above 0")


@dataclass
class _Layer:
    """Weights of one attention layer with its MLP."""

    weights: Mapping[str, Tensor]
    num_heads: int


@dataclass
class _Block:
    """One block; ``pos`` in its own order, ``classes`` with the mean row last."""

    spec: ARBlock
    ends: Mapping[str, Tensor]
    layers: list[_Layer]
    pos: Tensor
    classes: Tensor


@dataclass
class _Cache:
    """Keys and values of each layer, one entry for each call."""

    keys: list[list[Tensor]] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)

    @staticmethod
    def of(layers: int) -> _Cache:
        return _Cache([[] for _ in range(layers)], [[] for _ in range(layers)])

    def drop_last(self) -> None:
        """Forget the last call."""
        for rows in (*self.keys, *self.values):
            rows.pop()


class Baseline:
    """A checkpoint in PyTorch.

    Attributes:
        spec: what the model is.
        threads: of torch, while it computes here; torch's own number stays as it was.
        version: such as ``torch 2.13.0``.
    """

    def __init__(self, checkpoint: Path, threads: int = 1) -> None:
        """Read all weights.

        Raises:
            MissingExtraError: torch is not installed.
            CheckpointError: the file is not a checkpoint.
            UsageError: threads below 1.
        """
        if threads < 1:
            raise UsageError(f"threads {threads} is below 1")
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError as error:
            raise MissingExtraError("--baseline", "torch", "export") from error
        # By name: benchmarks use the runtime alone, and this one option needs the importer.
        module = importlib.import_module(f"{__package__.rpartition('.')[0]}.export.checkpoint")
        opened = module.Checkpoint.open(checkpoint)
        self.spec: FlowSpec = opened.config.flow_spec()
        self.threads, self.version = threads, f"torch {self._torch.__version__}"
        self._scale: Floats = np.sqrt(opened.var())
        self._blocks = [self._block(block, opened.block(block.block)) for block in self._stages]

    @property
    def _stages(self) -> tuple[ARBlock, ...]:
        return self.spec.ar_blocks

    def _block(self, block: ARBlock, weights: Any) -> _Block:
        torch = self._torch
        tensors = {name: torch.from_numpy(array) for name, array in weights.network.items()}
        layers = []
        for i in range(block.num_layers):
            prefix = f"attn_blocks.{i}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            layers.append(_Layer(own, block.num_heads))
        ends = {n: t for n, t in tensors.items() if not n.startswith("attn_blocks.")}
        pos, classes = torch.from_numpy(weights.pos), torch.from_numpy(weights.classes)
        return _Block(block, ends, layers, pos, classes)

    # -- sampling ----------------------------------------------------------------------------------

    def sequential(
        self,
        noise: Floats,
        labels: Sequence[int | None] | None = None,
        guidance: Guidance = Guidance(),  # noqa: B008 (frozen)
    ) -> Floats:
        """[N, T, D] noise to [N, C, H, W], as the reference's ``Model.reverse``."""
        return self._decode(noise, labels, guidance, None)

    def gs_jacobi(
        self,
        noise: Floats,
        labels: Sequence[int | None] | None = None,
        guidance: Guidance = Guidance(),  # noqa: B008 (frozen)
        schedule: Schedule = Schedule(),
    ) -> Floats:
        """[N, T, D] noise to [N, C, H, W] by GS-Jacobi; near the sequential image, not equal."""
        return self._decode(noise, labels, guidance, schedule)

    def _decode(
        self,
        noise: Floats,
        labels: Sequence[int | None] | None,
        guidance: Guidance,
        schedule: Schedule | None,
    ) -> Floats:
        torch = self._torch
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                x = torch.from_numpy(noise * self._scale)
                for number, block in enumerate(self._blocks):
                    flip = block.spec.permutation == "flip"
                    x = x.flip(1) if flip else x
                    rows = self._rows(block, labels, len(noise))
                    if schedule is None:
                        self._invert(block, x, rows, guidance)
                    else:
                        x = self._sweep(block, x, rows, guidance, schedule, tough=number == 0)
                    x = x.flip(1) if flip else x
                patches: Floats = np.ascontiguousarray(x.numpy())
        finally:
            torch.set_num_threads(before)
        return unpatchify(patches, self.spec.image)

    def _rows(self, block: _Block, labels: Sequence[int | None] | None, count: int) -> Tensor:
        """[N, 1, C] class rows."""
        last = len(block.classes) - 1
        chosen = labels if labels is not None else [None] * count
        return block.classes[[last if label is None else label for label in chosen]][:, None]

    def _invert(self, block: _Block, x: Tensor, rows: Tensor, guidance: Guidance) -> None:
        """x [N, T, D] in the block's order becomes its inverse, in place."""
        layers = block.spec.num_layers
        cond, uncond = _Cache.of(layers), _Cache.of(layers)
        T = x.shape[1]
        for i in range(T - 1):
            xa, xb = self._guided(block, x[:, i : i + 1], i, rows, guidance, cond, uncond, T)
            x[:, i + 1] = x[:, i + 1] * xa[:, 0].exp() + xb[:, 0]

    def _sweep(
        self,
        block: _Block,
        z: Tensor,
        rows: Tensor,
        guidance: Guidance,
        schedule: Schedule,
        *,
        tough: bool,
    ) -> Tensor:
        """The block's inverse window by window; a window sees the swept ones through the cache."""
        layers, T = block.spec.num_layers, z.shape[1]
        cond, uncond = _Cache.of(layers), _Cache.of(layers)
        windows = schedule.tough_windows if tough else 1
        most = schedule.tough_sweeps if tough else schedule.sweeps
        x = z.clone()
        for part in np.array_split(np.arange(T - 1), min(windows, T - 1)):
            start, end = int(part[0]), int(part[-1]) + 1
            following = slice(start + 1, end + 1)
            for sweep in range(min(most, end - start)):
                if sweep:
                    cond.drop_last()
                    if guidance.scale > 0:
                        uncond.drop_last()
                given = x[:, start:end]
                xa, xb = self._guided(block, given, start, rows, guidance, cond, uncond, T)
                found = z[:, following] * xa.exp() + xb
                x[:, following] = found.clamp(-schedule.clip, schedule.clip)
        return x

    def _guided(
        self,
        block: _Block,
        x: Tensor,
        position: int,
        rows: Tensor,
        guidance: Guidance,
        cond: _Cache,
        uncond: _Cache,
        T: int,
    ) -> tuple[Tensor, Tensor]:
        """(xa, xb) of patches position+1.. from x [N, W, D] at ``position``, guided."""
        xa, xb = self._parameters(block, x, position, rows, cond, 1.0)
        if guidance.scale == 0:
            return xa, xb
        mean = block.classes[-1:][:, None]
        other_a, other_b = self._parameters(block, x, position, mean, uncond, guidance.attn_temp)
        scale: Any = guidance.scale
        if guidance.annealed:
            steps = self._torch.arange(position + 1, position + 1 + x.shape[1])
            scale = (steps / (T - 1) * guidance.scale)[:, None]
        if "a" in guidance.what:
            xa = xa + scale * (xa - other_a)
        if "b" in guidance.what:
            xb = xb + scale * (xb - other_b)
        return xa, xb

    def _parameters(
        self, block: _Block, x: Tensor, position: int, rows: Tensor, cache: _Cache, temp: float
    ) -> tuple[Tensor, Tensor]:
        """One pass of the block's network; what it adds to the cache stays there."""
        linear, ends = self._torch.nn.functional.linear, block.ends
        h = linear(x, ends["proj_in.weight"], ends["proj_in.bias"])
        h = h + block.pos[position : position + x.shape[1]] + rows
        for i, layer in enumerate(block.layers):
            h = h + self._attention(layer, h, cache.keys[i], cache.values[i], temp)
            h = h + self._mlp(layer.weights, h)
        y: Tensor = linear(h, ends["proj_out.weight"], ends["proj_out.bias"])
        if block.spec.scale == "none":
            return self._torch.zeros_like(y), y
        xa, xb = y.chunk(2, dim=-1)
        return xa, xb

    def _attention(
        self, layer: _Layer, x: Tensor, keys: list[Tensor], values: list[Tensor], temp: float
    ) -> Tensor:
        torch, weights = self._torch, layer.weights
        functional = torch.nn.functional
        N, W, C = x.shape
        h = self._norm(weights, "attention.norm", x)
        qkv = functional.linear(h, weights["attention.qkv.weight"], weights["attention.qkv.bias"])
        heads = qkv.reshape(N, W, 3 * layer.num_heads, -1).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        keys.append(k)
        values.append(v)
        k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        seen = None  # one patch sees all before it
        if W > 1:
            seen = torch.ones(W, k.shape[2], dtype=torch.bool).tril(k.shape[2] - W)
        scale = (C // layer.num_heads) ** -0.5 / temp
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        y = y.transpose(1, 2).reshape(N, W, C)
        found: Tensor = functional.linear(
            y, weights["attention.proj.weight"], weights["attention.proj.bias"]
        )
        return found

    def _mlp(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        functional = self._torch.nn.functional
        h = self._norm(weights, "mlp.norm", x)
        h = functional.linear(h, weights["mlp.main.0.weight"], weights["mlp.main.0.bias"])
        h = functional.gelu(h)
        found: Tensor = functional.linear(
            h, weights["mlp.main.2.weight"], weights["mlp.main.2.bias"]
        )
        return found

    def _norm(self, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        found: Tensor = self._torch.nn.functional.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], LAYER_NORM_EPSILON
        )
        return found
