"""Torch modules to an ExecuTorch program for XNNPACK."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....runtime.engines.quiet import quiet_native_stderr
from ....runtime.errors import MissingExtraError
from .modules import NetworkModule


@dataclass(frozen=True)
class Method:
    """A module, example inputs, and the inputs' dynamic dimensions (as torch.export takes them)."""

    module: NetworkModule
    inputs: tuple[Tensor, ...]
    dynamic: Any = None


def lower_methods(methods: Mapping[str, Method], path: Path) -> None:
    """Trace all methods and lower them into one file, in which they share weights and buffers.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    with (
        _quiet(),
        quiet_native_stderr(),
        torch.no_grad(),
    ):  # without no_grad the cache cannot be written in place
        _check_installed()
        from executorch.exir import (
            EdgeCompileConfig,
            ExecutorchBackendConfig,
            to_edge_transform_and_lower,
        )
        from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators

        from .partition import xnnpack_partitioner

        programs = {
            name: torch.export.export(m.module, m.inputs, dynamic_shapes=m.dynamic, strict=False)
            for name, m in methods.items()
        }
        edge = to_edge_transform_and_lower(
            programs,
            partitioner=[xnnpack_partitioner(convolutions=_convolves(methods))],
            # Otherwise index_put_ and the fp16 casts fail checks of an operator set made for
            # accelerators.
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        program = edge.to_executorch(
            ExecutorchBackendConfig(
                run_reinplace_pass=True,  # the cache is written in place
                emit_mutable_buffer_names=True,
                memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True),
            )
        )
        with open(path, "xb") as file:
            program.write_to_file(file)


def _convolves(methods: Mapping[str, Method]) -> bool:
    networks = [method.module.network for method in methods.values()]
    return any(node.op == "conv" for network in networks for node in network.nodes)


def _check_installed() -> None:
    try:
        import executorch.exir  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("export to executorch", "executorch", "executorch") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Lower without the exporters' warnings and without their handler on the root logger.

    Garbage collection is paused: it takes a sixth of the time and frees little (of a peak of
    5.7 GB at 256 pixels, 0.3).
    """
    root = logging.getLogger()
    handlers, collecting = list(root.handlers), gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about internals of torch.export and ExecuTorch
            yield
    finally:
        root.handlers[:] = handlers  # importing XNNPACK's partitioner calls logging.basicConfig
        if collecting:
            gc.enable()
