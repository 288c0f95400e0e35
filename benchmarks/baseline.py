"""What flowship is compared with: the published way to sample a TarFlow, in PyTorch eager mode.

``sequential`` is the algorithm of apple/ml-tarflow's ``Model.reverse``, written anew: patch by
patch, keys and values in lists that every layer concatenates at every patch, guidance as a second
pass with lists of its own. It takes the published code's time too: see ``baseline_network``.
``gs_jacobi`` is GS-Jacobi (arXiv 2505.12849): a block in windows, each swept with Jacobi
iterations. The weights come from the checkpoint; torch is needed for this alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Block:
    """One block and its network."""

    spec: ARBlock
    network: Any


class Baseline:
    """A checkpoint in PyTorch.

    Attributes:
        name: of the checkpoint, without a suffix.
        spec: what the model is.
        threads: of torch, while it computes here; torch's own number stays as it was.
        version: such as ``torch 2.13.0``.
    """

    def __init__(self, checkpoint: Path, threads: int = 1, weights: str | None = None) -> None:
        """Read all weights.

        Args:
            weights: which model of a checkpoint that holds several.

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
        self._modules: Any = importlib.import_module(".baseline_network", __package__)
        # By name: benchmarks use the runtime alone, and this one option needs the importer.
        module = importlib.import_module(f"{__package__.rpartition('.')[0]}.export.checkpoint")
        opened = module.Checkpoint.open(checkpoint, weights=weights)
        files = importlib.import_module(
            f"{__package__.rpartition('.')[0]}.export.sources.checkpoint_files"
        )
        self.name: str = files.without_suffix(opened.files.name)
        self.spec: FlowSpec = opened.config.flow_spec()
        self.threads, self.version = threads, f"torch {self._torch.__version__}"
        self._scale: Floats = np.sqrt(opened.var())
        self._blocks = [self._block(block, opened.block(block.block)) for block in self._stages]

    @property
    def _stages(self) -> tuple[ARBlock, ...]:
        return self.spec.ar_blocks

    def _block(self, block: ARBlock, weights: Any) -> _Block:
        torch = self._torch
        network = self._modules.BlockNetwork(
            block,
            {name: torch.from_numpy(array) for name, array in weights.network.items()},
            torch.from_numpy(weights.pos),
            torch.from_numpy(weights.classes),
        )
        return _Block(block, network)

    def _class_rows(self, labels: Sequence[int | None] | None) -> Tensor | None:
        """[N] numbers of class rows, the mean row for None; None where no picture has a class."""
        if labels is None or all(label is None for label in labels):
            return None
        last = self.spec.num_classes
        rows: Tensor = self._torch.tensor([last if label is None else label for label in labels])
        return rows

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
                rows = self._class_rows(labels)
                for number, block in enumerate(self._blocks):
                    flip = block.spec.permutation == "flip"
                    x = x.flip(1) if flip else x
                    if schedule is None:
                        self._invert(block, x, rows, guidance)
                    else:
                        x = self._sweep(block, x, rows, guidance, schedule, tough=number == 0)
                    x = x.flip(1) if flip else x
                patches: Floats = np.ascontiguousarray(x.numpy())
        finally:
            torch.set_num_threads(before)
        return unpatchify(patches, self.spec.image)

    def _invert(self, block: _Block, x: Tensor, labels: Tensor | None, guidance: Guidance) -> None:
        """x [N, T, D] in the block's order becomes its inverse, in place."""
        network, T = block.network, x.shape[1]
        network.forget()
        for i in range(T - 1):
            xa, xb = self._guided(block, x[:, i : i + 1], i, labels, guidance, T)
            scale = xa[:, 0].float().exp().type(xa.dtype)
            x[:, i + 1] = x[:, i + 1] * scale + xb[:, 0]
        network.forget()

    def _sweep(
        self,
        block: _Block,
        z: Tensor,
        labels: Tensor | None,
        guidance: Guidance,
        schedule: Schedule,
        *,
        tough: bool,
    ) -> Tensor:
        """The block's inverse window by window; a window sees the swept ones through the cache."""
        network, T = block.network, z.shape[1]
        network.forget()
        windows = schedule.tough_windows if tough else 1
        most = schedule.tough_sweeps if tough else schedule.sweeps
        x = z.clone()
        for part in np.array_split(np.arange(T - 1), min(windows, T - 1)):
            start, end = int(part[0]), int(part[-1]) + 1
            following = slice(start + 1, end + 1)
            for sweep in range(min(most, end - start)):
                if sweep:
                    network.drop_last()
                xa, xb = self._guided(block, x[:, start:end], start, labels, guidance, T)
                found = z[:, following] * xa.exp() + xb
                x[:, following] = found.clamp(-schedule.clip, schedule.clip)
        network.forget()
        return x

    def _guided(
        self,
        block: _Block,
        x: Tensor,
        position: int,
        labels: Tensor | None,
        guidance: Guidance,
        T: int,
    ) -> tuple[Tensor, Tensor]:
        """(xa, xb) of patches position+1.. from x [N, W, D] at ``position``, guided."""
        xa, xb = block.network(x, position, labels, 1.0, "cond")
        if guidance.scale == 0:
            return xa, xb
        other_a, other_b = block.network(x, position, None, guidance.attn_temp, "uncond")
        scale: Any = guidance.scale
        if guidance.annealed:
            steps = self._torch.arange(position + 1, position + 1 + x.shape[1])
            scale = (steps / (T - 1) * guidance.scale)[:, None]
        if "a" in guidance.what:
            xa = xa + scale * (xa - other_a)
        if "b" in guidance.what:
            xb = xb + scale * (xb - other_b)
        return xa, xb
