"""What an export target is: it turns one block at a time into artifacts of the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ...runtime.errors import UsageError
from ...runtime.manifest import Artifact, EngineName
from ...runtime.spec import ARBlock
from ..families.tarflow import BlockWeights, TarFlowConfig
from ..options import TargetOptions as TargetOptions


class Target(Protocol):
    """One export target.

    Attributes:
        engine: the engine that runs its artifacts; also its folder in the bundle.
        precisions: those it can write, the best first.
        formats: weight formats (names in quantize.formats) that its quantized precisions use: the
            first is the precision's own, ``mixed`` may take any of its list, layer by layer.
        first_block_cost: what its first block takes, in times of a further one; for progress.
    """

    engine: EngineName
    precisions: tuple[str, ...]
    formats: Mapping[str, tuple[str, ...]]
    first_block_cost: float

    def export_block(
        self,
        root: Path,
        config: TarFlowConfig,
        stage: ARBlock,
        weights: BlockWeights,
        precision: str,
        options: TargetOptions,
    ) -> list[Artifact]:
        """Write a block's artifacts under ``root / engine / precision`` and describe them.

        Matrices in ``weights.quantized`` are written as they are quantized, everything else in the
        target's own float type.

        Paths in the artifacts are relative to ``root`` with forward slashes.
        """


def check_precision(target: Target, precision: str) -> None:
    """Raise UsageError, naming what exists, if the target cannot write the precision."""
    if precision not in target.precisions:
        raise UsageError(
            f"{target.engine} has no precision {precision!r}: choose from "
            f"{', '.join(target.precisions)}"
        )
