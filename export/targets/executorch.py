"""Export to ExecuTorch: one .pte per block, whose methods share weights and KV cache (XNNPACK)."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.errors import MissingExtraError
from ...runtime.manifest import Artifact, EngineName
from ...runtime.spec import ARBlock
from ..families.tarflow import BlockWeights, TarFlowConfig
from .base import TargetOptions, check_precision
from .executorch_block import StepBlock
from .executorch_vjp import VjpBlock

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class ExecuTorchTarget:
    """The methods of ``executorch/<precision>/<block>.pte``; all inputs and outputs are float32.

    ``step{W}``, ``guided{W}``: a window of W patches for one or two branches (see StepBlock).
    ``step``, ``guided``: the same for every W up to T, where options.executorch_dynamic.
    ``vjp``: see VjpBlock; only for models that were trained with Gaussian noise.
    """

    engine: EngineName = "executorch"
    precisions: tuple[str, ...] = tuple(DTYPES)

    def export_block(
        self,
        root: Path,
        config: TarFlowConfig,
        stage: ARBlock,
        weights: BlockWeights,
        precision: str,
        options: TargetOptions,
    ) -> list[Artifact]:
        check_precision(self, precision)
        path = f"{self.engine}/{precision}/{stage.name}.pte"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        denoise = options.denoise and config.noise.kind == "gaussian"
        windows = () if options.executorch_dynamic else options.windows_up_to(config.num_patches)
        block = weights.module(config).to(DTYPES[precision])
        methods = step_methods(StepBlock(block), config, windows)
        if denoise:
            methods["vjp"] = vjp_method(VjpBlock(block), config)
        lower(methods, root / path)
        roles = [("step", 1, windows), ("step", 2, windows)]
        roles += [("vjp", 1, ())] if denoise else []
        return [
            Artifact(
                self.engine, precision, role, stage.name, "bmm", branches, w, path, (path,)
            )
            for role, branches, w in roles
        ]


@dataclass(frozen=True)
class ProgramMethod:
    """A module, example inputs, and the inputs' dynamic dimensions (as torch.export takes them)."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    dynamic: Any = None


class _Bound(nn.Module):
    """One method of a module as ``forward``; parameters keep one name for all methods."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(self.module, self.method)(*inputs)
        return result


def step_methods(
    block: StepBlock, config: TarFlowConfig, windows: tuple[int, ...]
) -> dict[str, ProgramMethod]:
    methods = {}
    for name, rows in (("step", 1), ("guided", 2)):
        for W in windows:
            inputs = _step_inputs(config, rows, W)
            methods[f"{name}{W}"] = ProgramMethod(_Bound(block, name), inputs)
        if not windows:
            W = torch.export.Dim("W", min=1, max=config.num_patches)
            inputs = _step_inputs(config, rows, min(8, config.num_patches))
            dynamic = ({1: W}, {1: W}, {0: W}, None)[: len(inputs)]
            methods[name] = ProgramMethod(_Bound(block, name), inputs, (dynamic,))
    return methods


def _step_inputs(config: TarFlowConfig, rows: int, W: int) -> tuple[Tensor, ...]:
    x, context = torch.zeros(rows, W, config.patch_dim), torch.zeros(rows, W, config.channels)
    return (x, context, torch.arange(W), *([torch.ones(rows)] if rows == 2 else []))


def vjp_method(block: VjpBlock, config: TarFlowConfig) -> ProgramMethod:
    T, D = config.num_patches, config.patch_dim
    grads = [torch.zeros(T, D) for _ in range(1 + config.nvp)]
    return ProgramMethod(_Bound(block, "forward"), (torch.zeros(T, D), torch.zeros(T, config.channels), *grads))


def lower(methods: dict[str, ProgramMethod], path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import (
        EdgeCompileConfig,
        ExecutorchBackendConfig,
        to_edge_transform_and_lower,
    )
    from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass

    with torch.no_grad():
        programs = {
            name: torch.export.export(m.module, m.inputs, dynamic_shapes=m.dynamic, strict=False)
            for name, m in methods.items()
        }
        edge = to_edge_transform_and_lower(
            programs,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        global EDGE
        EDGE = edge
        program = edge.to_executorch(
            ExecutorchBackendConfig(
                run_reinplace_pass=True,
                emit_mutable_buffer_names=True,
                memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True),
            )
        )
    with open(path, "xb") as file:
        program.write_to_file(file)
