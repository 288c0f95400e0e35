"""ExecuTorch programs of the golden models, and what the float32 torch module says to them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONDITIONAL, GOLDEN, UNCONDITIONAL

pytest.importorskip("executorch")

from flowship.export.families.tarflow import (
    BlockWeights,
    TarFlowBlock,
    TarFlowConfig,
    block_weights,
    infer_config,
)
from flowship.export.options import ConfigOverrides
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.executorch import ExecuTorchTarget
from flowship.runtime.engines.base import ARStage, EngineOptions
from flowship.runtime.engines.executorch import ExecuTorchEngine, open_executorch
from flowship.runtime.manifest import Artifact, FileEntry, Manifest
from flowship.runtime.spec import ARBlock, TrainingNoise

HAS_COMPILER = bool(shutil.which("g++") or shutil.which("clang++"))
# float32: the error of sums in another order, 2e-7 measured; a wrong mask or row gives 1e-2.
# mixed: activations of 8 bits under the 4-bit matrices, 1/510 of a row's range; 4e-3 measured.
# fp16: of the largest value; 11 bits are 5e-4, 4e-4 measured, 3.4e-3 where the processor also adds
# up in fp16.
TOLERANCE = {"fp32": 5e-6, "fp16": 5e-3, "mixed": 1e-2}
GRADIENT_TOLERANCE = {"fp32": 5e-6, "fp16": 1e-2}  # of the largest value; 7e-7 and 9e-4 measured


@dataclass
class Exported:
    """A block's program, the weights it was made from, and what an engine asks of a bundle."""

    root: Path
    config: TarFlowConfig
    block: ARBlock
    weights: BlockWeights
    artifacts: tuple[Artifact, ...]

    @property
    def precision(self) -> str:
        return self.artifacts[0].precision

    @property
    def path(self) -> Path:
        return self.root / self.artifacts[0].path

    def engine(self, threads: int | None = 1, device: str = "cpu") -> ExecuTorchEngine:
        manifest: Any = SimpleNamespace(
            artifacts=self.artifacts,
            spec=self.config.flow_spec(),
            files={
                a.path: FileEntry((self.root / a.path).stat().st_size, "") for a in self.artifacts
            },
        )
        manifest.find = lambda *wanted: Manifest.find(manifest, *wanted)
        bundle: Any = SimpleNamespace(
            manifest=manifest, artifact_path=lambda artifact: self.root / artifact.path
        )
        engine = open_executorch(bundle, EngineOptions(self.precision, device, threads))
        assert isinstance(engine, ExecuTorchEngine)
        return engine


def golden(name: str) -> tuple[TarFlowConfig, dict[str, np.ndarray]]:
    state = torch.load(GOLDEN / name, weights_only=True)
    tensors = {n: t.numpy() for n, t in state.items() if not n.endswith("attn_mask")}
    shapes = {n: t.shape for n, t in tensors.items()}
    return infer_config(shapes, name, ConfigOverrides()), tensors


def golden_block(tensors: dict[str, np.ndarray], block: int) -> BlockWeights:
    prefix = f"blocks.{block}."
    return block_weights({n: a for n, a in tensors.items() if n.startswith(prefix)}, block)


def without_nvp() -> tuple[TarFlowConfig, BlockWeights]:
    """A volume-preserving block whose biases are all zero, and so equal in their bytes."""
    config = TarFlowConfig(1, 6, 2, 64, 1, 1, 0, False, 32, 2, TrainingNoise("gaussian", 0.1))
    torch.manual_seed(0)
    module = TarFlowBlock(config)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    network = {n: p.detach().numpy() for n, p in module.named_parameters()}
    rng = np.random.default_rng(0)
    pos = rng.standard_normal((config.num_patches, config.channels), np.float32)
    return config, BlockWeights(network, pos, np.zeros((1, config.channels), np.float32))


def quantized(weights: BlockWeights) -> BlockWeights:
    """One matrix of each kind that a program can hold, and one that stays float."""
    formats = {"attention.qkv": "int8", "attention.proj": "int4_g32", "mlp.main.2": "int4_g32"}
    matrices = {
        f"attn_blocks.0.{name}.weight": round_to_nearest(
            weights.network[f"attn_blocks.0.{name}.weight"], FORMATS[format]
        )
        for name, format in formats.items()
    }
    return replace(weights, quantized=matrices)


def export(
    root: Path,
    config: TarFlowConfig,
    weights: BlockWeights,
    block: int,
    precision: str,
    **options: Any,
) -> Exported:
    stage = next(s for s in config.flow_spec().ar_blocks if s.block == block)
    found = ExecuTorchTarget().export_block(
        root, config, stage, weights, precision, TargetOptions(**options)
    )
    return Exported(root, config, stage, weights, tuple(found))


def lower_programs(root: Path) -> dict[str, Exported]:
    """12 methods: dynamic and static windows, quantized ones, fp16 without nvp."""
    config, tensors = golden(f"{CONDITIONAL}.pth")
    found = {}
    for b in (0, 1):  # from one template
        weights = golden_block(tensors, b)
        found[f"dynamic{b}"] = export(root, config, weights, b, "fp32")
    config, tensors = golden(f"{UNCONDITIONAL}.pth")
    weights = golden_block(tensors, 1)
    options = {"windows": (1, 4), "denoise": False, "executorch_dynamic": False}
    found["static"] = export(root / "static", config, weights, 1, "fp32", **options)
    for b in (0, 1):
        weights = quantized(golden_block(tensors, b))
        found[f"mixed{b}"] = export(root, config, weights, b, "mixed")
    config, weights = without_nvp()
    options = {"windows": (1,), "executorch_dynamic": False}
    found["fp16"] = export(root / "fp16", config, weights, 0, "fp16", **options)
    return found


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def reference(
    exported: Exported, x: np.ndarray, class_row: np.ndarray, q_scale: float = 1.0
) -> np.ndarray:
    """[2, T, D]: xa and xb of the float32 torch module over the whole sequence."""
    module = exported.weights.dequantized().module(exported.config)
    context = torch.from_numpy(exported.weights.pos + class_row)[None]
    with torch.no_grad():
        xa, xb, _ = module(torch.from_numpy(x)[None], context, None, torch.tensor([q_scale]))
    return torch.cat([xa, xb]).numpy()


def begin(stage: ARStage, exported: Exported, q_scale: float | None = None) -> None:
    """One branch of class row 0, or two: class row 0, and the mean with scaled queries."""
    classes = exported.weights.classes
    if q_scale is None:
        stage.begin(exported.weights.pos, classes[:1][None], np.ones(1, np.float32))
    else:
        rows = np.stack([classes[0], classes[-1]])[:, None]
        stage.begin(exported.weights.pos, rows, np.array([1, q_scale], np.float32))


def run(stage: ARStage, x: np.ndarray, window: int) -> np.ndarray:
    """[branches, 2, T, D] through windows of one length."""
    parts = []
    for position in range(0, len(x), window):
        xa, xb = stage.step(x[None, position : position + window], position)
        parts.append(np.stack([xa[:, 0], xb[:, 0]], 1))
    return np.concatenate(parts, 2)


def spoil(stage: ARStage, exported: Exported) -> None:
    """Overwrite every row of the cache with wrong values, so that none is right by chance."""
    D = exported.config.patch_dim
    for position in range(exported.config.num_patches):
        stage.step(np.full((1, 1, D), 3.0, np.float32), position)
