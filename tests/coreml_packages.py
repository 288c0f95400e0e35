"""Core ML packages of blocks, exported for tests, and what torch says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import BlockWeights, TarFlowBlock, TarFlowConfig
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.coreml import CoreMLTarget
from flowship.runtime.engines.base import ARStage, EngineOptions
from flowship.runtime.engines.coreml_interpreter import InterpreterEngine
from flowship.runtime.manifest import Artifact, FileEntry
from flowship.runtime.spec import ARBlock, TrainingNoise

Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
COND = GOLDEN / "tiny_cond_model_4_128_3_2_0.05.pth"
UNCOND = GOLDEN / "tiny_uncond_model_2_64_2_1_0.10.pth"
EMBEDDED = ROOT / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"

# Every result is rounded to float16 (relative 2^-11 = 4.9e-4), about ten times in each layer and on
# a residual stream that all layers share. Measured: at most 1.6e-3 of the largest value.
HALF_ERROR = 3e-3


@dataclass(frozen=True)
class Exported:
    """A block, its package, and the bundle that an engine sees around them."""

    root: Path
    config: TarFlowConfig
    stage: ARBlock
    weights: BlockWeights
    artifacts: list[Artifact]

    @property
    def package(self) -> Path:
        return self.root / self.artifacts[0].path

    @property
    def bundle(self) -> Any:
        """What an engine uses of a Bundle."""
        files = {f: FileEntry((self.root / f).stat().st_size, "") for f in self.artifacts[0].files}

        def find(*wanted: object) -> tuple[Artifact, ...]:
            engine, precision, role, stage, branches = wanted
            return tuple(
                a
                for a in self.artifacts
                if (a.engine, a.precision, a.role, a.stage, a.branches)
                == (engine, precision, role, stage, branches)
            )

        manifest = SimpleNamespace(
            name="test",
            artifacts=self.artifacts,
            files=files,
            find=find,
            precisions={"coreml": ("fp16",)},
        )
        return SimpleNamespace(manifest=manifest, artifact_path=lambda a: self.root / a.path)

    def random_patches(self, seed: int) -> Floats:
        """[1, T, D]"""
        shape = (1, self.config.num_patches, self.config.patch_dim)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def class_rows(self, *labels: int) -> Floats:
        """[branches, 1, C]"""
        return self.weights.classes[list(labels)][:, None]

    def expected(
        self, x: Floats, classes: Floats, q_scale: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The float32 torch block on the whole sequence: (xa, xb), each [branches, T, D]."""
        context = torch.from_numpy(self.weights.pos[None] + classes)
        repeated = torch.from_numpy(x).expand(len(classes), -1, -1)
        scale = None if q_scale is None else torch.from_numpy(q_scale)
        xa, xb, _ = self.weights.module(self.config)(repeated, context, q_scale=scale)
        return xa.numpy(), xb.numpy()


def export(
    root: Path, config: TarFlowConfig, block: int, weights: BlockWeights, **options: Any
) -> Exported:
    stage = next(s for s in config.flow_spec().ar_blocks if s.block == block)
    choices = TargetOptions(**options)
    artifacts = CoreMLTarget().export_block(root, config, stage, weights, "fp16", choices)
    return Exported(root, config, stage, weights, artifacts)


def random_block(seed: int, **changes: Any) -> tuple[TarFlowConfig, BlockWeights]:
    """A well-scaled block of a small model."""
    config = TarFlowConfig(
        in_channels=1,
        img_size=12,
        patch_size=2,
        channels=64,
        num_blocks=1,
        layers_per_block=2,
        num_classes=3,
        nvp=True,
        head_dim=32,
        expansion=2,
        noise=TrainingNoise("unknown"),
    )
    config = replace(config, **changes)
    rng = np.random.default_rng(seed)

    def values(name: str, shape: tuple[int, ...]) -> Floats:
        mean = 1 if name.endswith("norm.weight") else 0
        std = shape[1] ** -0.5 if len(shape) == 2 else 0.1
        return rng.normal(mean, std, shape).astype(np.float32)

    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in TarFlowBlock(config).state_dict().items()}
    network = {name: values(name, shape) for name, shape in shapes.items()}
    pos = values("pos", (config.num_patches, config.channels))
    return config, BlockWeights(network, pos, values("classes", (4, config.channels)))


def run_all(
    stage: ARStage,
    exported: Exported,
    x: Floats,
    classes: Floats,
    window: int,
    q_scale: tuple[float, ...] = (1, 1),
) -> tuple[Floats, Floats]:
    """The whole sequence in windows of one length: (xa, xb), each [branches, T, D]."""
    scale = np.array(q_scale[: len(classes)], np.float32)
    stage.begin(exported.weights.pos, classes, scale)
    T = x.shape[1]
    parts = []
    for start in range(0, T, window):
        xa, xb = stage.step(x[:, start : start + window], start)
        assert xa.dtype == xb.dtype == np.float32
        parts.append((xa[:, 0], xb[:, 0]))
    return tuple(np.concatenate(p, 1) for p in zip(*parts, strict=True))  # type: ignore[return-value]


class Exports:
    """Exports blocks of checkpoints as float16, each once."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._done: dict[tuple[Path, int], Exported] = {}

    def __call__(self, path: Path, block: int) -> Exported:
        if (path, block) not in self._done:
            checkpoint = Checkpoint.open(path)
            root = self._folders.mktemp(f"{path.stem}-{block}")
            weights = checkpoint.block(block)
            self._done[path, block] = export(root, checkpoint.config, block, weights)
        return self._done[path, block]


def interpreter(exported: Exported) -> InterpreterEngine:
    return InterpreterEngine(exported.bundle, EngineOptions("fp16"))
