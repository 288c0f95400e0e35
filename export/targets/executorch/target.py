"""Export to ExecuTorch: one .pte per block, whose methods share weights and KV cache (XNNPACK)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....runtime.locks import private_folder
from ....runtime.manifest import Artifact, EngineName
from ....runtime.spec import ARBlock
from ...families.tarflow import BlockWeights, TarFlowConfig, emit_step
from ...graph import Network, Value, vector_jacobian
from ...options import PRECISIONS
from ...quantize.formats import find_formats
from ..base import TargetOptions, check_precision
from .lowering import Method, lower_methods
from .modules import GradientModule, StepModule, Store
from .quantized import (
    Layout,
    build_store,
    layout_of,
    scales_name,
    stored_arrays,
    stored_ones,
)
from .template import MARK_BYTES, ProgramTemplate, stand_ins

FORMATS: dict[str, tuple[str, ...]] = {
    "int8": ("int8",),
    "int4": ("int4_g32",),
    "mixed": ("int4_g32", "int8"),
}
Weights = Mapping[str, npt.NDArray[Any]]


class ExecuTorchTarget:
    """The methods of ``executorch/<precision>/<block>.pte``; inputs and outputs are float32.

    ``step{W}``, ``guided{W}``: a window of W patches for one or two branches (see StepModule).
    ``step``, ``guided``: the same for every W up to T, where options.executorch_dynamic.
    ``vjp``: see GradientModule; only for models that were trained with Gaussian noise, and not in
    the quantized precisions (see quantized.py): it applies the matrices transposed, which XNNPACK
    cannot do with codes, so that they would lie in the file twice.
    """

    engine: EngineName = "executorch"
    precisions: tuple[str, ...] = PRECISIONS["executorch"]
    formats: Mapping[str, tuple[str, ...]] = FORMATS
    first_block_cost = 60.0  # tracing and lowering happen once for all blocks

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
        several = config.num_patches > 1  # a dynamic length needs more than one value
        dynamic = options.executorch_dynamic and several
        plan = ProgramPlan(
            config,
            windows=() if dynamic else options.windows_up_to(config.num_patches),
            vjp=options.denoise and config.noise.kind == "gaussian" and precision not in FORMATS,
            layout=layout_of(weights.quantized),
        )
        write_program(root / path, plan, weights, precision)
        entries: list[tuple[Literal["step", "vjp"], int, tuple[int, ...]]]
        entries = [("step", 1, plan.windows), ("step", 2, plan.windows)]
        if plan.vjp:
            entries.append(("vjp", 1, ()))
        return [
            Artifact(self.engine, precision, role, stage.name, "bmm", branches, w, path, (path,))
            for role, branches, w in entries
        ]


@dataclass(frozen=True)
class ProgramPlan:
    """Which methods a block's program has; ``windows`` () is one method for every length."""

    config: TarFlowConfig
    windows: tuple[int, ...]
    vjp: bool
    layout: Layout = ()


def write_program(path: Path, plan: ProgramPlan, weights: BlockWeights, precision: str) -> None:
    """Write a block's program."""
    arrays = stored(weights, precision)
    if min(array.nbytes for array in arrays.values()) < MARK_BYTES:  # patches of one or two values
        lower(plan, arrays, path)
    else:
        _template(plan, precision).write(path, arrays)


def stored(weights: BlockWeights, precision: str) -> dict[str, npt.NDArray[Any]]:
    """Parameters by name as the program holds them: codes and scales, or the float type."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, array in weights.network.items():
        if name in weights.quantized:
            arrays[name], arrays[scales_name(name)] = stored_arrays(weights.quantized[name])
        else:
            arrays[name] = array.astype(_dtype(precision), copy=False)
    return arrays


def _dtype(precision: str) -> type[np.floating[Any]]:
    """Of what is not quantized."""
    return np.float16 if precision == "fp16" else np.float32


@lru_cache(maxsize=4)
def _template(plan: ProgramPlan, precision: str) -> ProgramTemplate:
    formats, arrays = dict(plan.layout), {}
    for name, shape in emit_step(plan.config, ("R", "W")).weights.items():
        sizes = [int(size) for size in shape]
        if name in formats:
            format = find_formats([formats[name]])[0]
            arrays[name], arrays[scales_name(name)] = stored_ones(format, *sizes)
        else:
            arrays[name] = np.zeros(sizes, _dtype(precision))
    marked = stand_ins(arrays)  # scales have to be normal numbers, also before they are patched
    with private_folder() as folder:
        path = folder / "template.pte"
        lower(plan, marked, path)
        return ProgramTemplate(path, marked)


def lower(plan: ProgramPlan, weights: Weights, path: Path) -> None:
    """Trace all methods of a block with these very weights and lower them into one file.

    Args:
        weights: as ``stored`` gives them.
    """
    lower_methods(_methods(plan, build_store(weights, plan.layout)), path)


# ---- methods -------------------------------------------------------------------------------------


def _methods(plan: ProgramPlan, store: Store) -> dict[str, Method]:
    config, network, methods = plan.config, emit_step(plan.config, ("R", "W")), {}
    for name, rows in (("step", 1), ("guided", 2)):
        module = StepModule(network, store, rows)
        for W in plan.windows:
            methods[f"{name}{W}"] = Method(module, _step_inputs(network, rows, W))
        if not plan.windows:
            inputs = _step_inputs(network, rows, min(8, config.num_patches))
            dim = torch.export.Dim("W", min=1, max=config.num_patches)
            sizes = (*({1: dim} for _ in network.inputs), {0: dim}, None)[: len(inputs)]
            methods[name] = Method(module, inputs, (sizes,))  # one entry for *inputs
    if plan.vjp:
        whole = emit_step(config, (config.num_patches,), cached=False, pair=True)
        gradient = vector_jacobian(whole, "x", recompute=True)
        sequences = tuple(torch.zeros(_sizes(v, {})) for v in gradient.inputs.values())
        methods["vjp"] = Method(GradientModule(gradient, store), sequences)
    return methods


def _step_inputs(network: Network, rows: int, W: int) -> tuple[Tensor, ...]:
    given = [torch.zeros(_sizes(v, {"R": rows, "W": W})) for v in network.inputs.values()]
    return (*given, torch.arange(W), *([torch.ones(rows)] if rows == 2 else []))


def _sizes(value: Value, lengths: Mapping[str, int]) -> list[int]:
    return [lengths[size] if isinstance(size, str) else size for size in value.shape]
