"""Core ML packages on any machine: the engine that checks the file, not the phone's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EngineError, UsageError
from ..manifest import Artifact
from ..spec import ARBlock
from .base import ARStage, EngineInfo, EngineOptions, VJPStage, register_engine
from .coreml_signature import check_signature
from .coreml_stage import Array, StepStage, find_step, no_vjp
from .mil import Executable, Package

if TYPE_CHECKING:
    from ..bundle import Bundle

# Packages stay open for the next picture while their weights, decoded to float32, are below this.
RESIDENT_BYTES = 1 << 30


class InterpreterEngine:
    """Runs a bundle's Core ML packages with the interpreter in ``mil``; numpy is all it needs."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        if options.device != "cpu":
            raise UsageError(
                f"the engine coreml-interpreter has no device {options.device!r}: it is cpu"
            )
        self._bundle, self._precision = bundle, options.precision
        self._packages: dict[Path, _OpenPackage] = {}
        version = f"numpy {np.__version__} (checks the file, not a device's arithmetic)"
        # 0: threads are the business of numpy's BLAS (OPENBLAS_NUM_THREADS and the like).
        self.info = EngineInfo("coreml-interpreter", version, "cpu", options.precision, threads=0)

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        return 1

    def open(
        self,
        stage: ARBlock,
        *,
        num_images: int = 1,
        branches: int = 1,
        scaled_queries: bool = False,
    ) -> ARStage:
        artifact = find_step(self._bundle.manifest, self._precision, stage, branches, num_images)
        path = self._bundle.artifact_path(artifact)
        if path not in self._packages:
            self._make_room()
            self._packages[path] = _OpenPackage(path, artifact.path)
        runner = _InterpreterRunner(self._packages[path], stage, artifact)
        return StepStage(runner, stage, artifact)

    def _make_room(self) -> None:
        """Close all packages unless one more of the size of the largest fits."""
        sizes = [opened.package.decoded_bytes for opened in self._packages.values()]
        if sum(sizes) + max(sizes, default=0) > RESIDENT_BYTES:
            self._packages.clear()

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        raise no_vjp()

    def close(self) -> None:
        self._packages.clear()


class _OpenPackage:
    """A package and those of its functions that have been used."""

    def __init__(self, path: Path, called: str) -> None:
        self.package = Package(path, called=called)
        self._functions: dict[str, Executable] = {}

    def function(self, name: str, stage: ARBlock, artifact: Artifact) -> Executable:
        if name not in self._functions:
            executable = Executable(self.package, name)
            check_signature(executable, name, stage, artifact)
            self._functions[name] = executable
        return self._functions[name]


class _InterpreterRunner:
    """One state and the functions that share it."""

    def __init__(self, package: _OpenPackage, stage: ARBlock, artifact: Artifact) -> None:
        self._package: _OpenPackage | None = package
        self._stage, self._artifact = stage, artifact
        self.state: dict[str, Array] = {}

    def reset(self) -> None:
        self.state = {}

    def run(self, function: str, inputs: dict[str, Array]) -> Mapping[str, Array]:
        if self._package is None:
            raise EngineError("the stage is closed")
        executable = self._package.function(function, self._stage, self._artifact)
        if not self.state:
            self.state = executable.make_state()
        return executable.run(inputs, self.state)

    def close(self) -> None:
        self._package, self.state = None, {}


@register_engine("coreml-interpreter")
def open_coreml_interpreter(bundle: Bundle, options: EngineOptions) -> InterpreterEngine:
    """The engine of ``--engine coreml-interpreter``."""
    return InterpreterEngine(bundle, options)
