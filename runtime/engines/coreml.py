"""Core ML on a Mac, through coremltools.

This code has run against a stand-in for coremltools (the interpreter behind the same calls: names,
types and shapes of the arguments, one state for all functions), not on a Mac.
"""

from __future__ import annotations

import platform
import sys
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, UsageError
from ..locks import private_folder
from ..spec import ARBlock
from .base import ARStage, EngineInfo, EngineOptions, VJPStage, register_engine
from .coreml_stage import Array, StepStage, find_step, no_vjp, package_bytes
from .coremltools_import import import_coremltools

if TYPE_CHECKING:
    from ..bundle import Bundle

COMPUTE_UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE", "all": "ALL"}
MINIMUM_MACOS = 15  # states and multifunction programs

# Models stay loaded for the next picture where all blocks are below this; Core ML needs a loaded
# copy for each window length in use (github.com/apple/coremltools/issues/2351).
RESIDENT_BYTES = 1 << 30


class CoreMLEngine:
    """Compiles each package once and loads the functions that are used.

    Args:
        coremltools: the package, or what behaves like it.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions, coremltools: Any) -> None:
        if options.device not in COMPUTE_UNITS:
            raise UsageError(
                f"the engine coreml has no device {options.device!r}: choose from "
                f"{', '.join(COMPUTE_UNITS)}"
            )
        self._bundle, self._precision, self._ct = bundle, options.precision, coremltools
        self._units = getattr(coremltools.ComputeUnit, COMPUTE_UNITS[options.device])
        self._keep = package_bytes(bundle.manifest, options.precision) <= RESIDENT_BYTES
        opened = ExitStack()
        self._folder = opened.enter_context(private_folder())
        self._remove_folder = weakref.finalize(self, opened.close)
        self._compiled: dict[Path, _CompiledPackage] = {}
        version = f"coremltools {coremltools.__version__}, macOS {platform.mac_ver()[0]}"
        # 0: Core ML decides how many threads a call takes.
        self.info = EngineInfo("coreml", version, options.device, options.precision, threads=0)

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
        if path not in self._compiled:
            self._compiled[path] = self._compile(path)
        package = self._compiled[path]
        if not self._keep:
            for other in self._compiled.values():
                if other is not package:
                    other.unload()
        return StepStage(_CoreMLRunner(package), stage, artifact)

    def _compile(self, package: Path) -> _CompiledPackage:
        target = self._folder / f"{package.stem}.mlmodelc"
        try:
            compiled = self._ct.models.utils.compile_model(str(package), str(target))
        except Exception as error:  # coremltools raises bare RuntimeError and Exception
            raise EngineError(f"Core ML cannot compile {package}: {error}") from error
        return _CompiledPackage(self._ct, compiled, self._units)

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        raise no_vjp()

    def close(self) -> None:
        self._compiled.clear()
        self._remove_folder()


class _CompiledPackage:
    """A ``.mlmodelc`` folder and the functions of it that are loaded."""

    def __init__(self, coremltools: Any, path: str, units: Any) -> None:
        self._ct, self._path, self._units = coremltools, path, units
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        if name not in self._functions:
            try:
                self._functions[name] = self._ct.models.CompiledMLModel(
                    self._path, compute_units=self._units, function_name=name
                )
            except Exception as error:
                raise EngineError(f"Core ML cannot load {name} of {self._path}: {error}") from error
        return self._functions[name]

    def unload(self) -> None:
        self._functions.clear()


class _CoreMLRunner:
    """One MLState and the functions that share it."""

    def __init__(self, package: _CompiledPackage) -> None:
        self._package: _CompiledPackage | None = package
        self._state: Any = None

    def reset(self) -> None:
        self._state = None

    def run(self, function: str, inputs: dict[str, Array]) -> Mapping[str, Array]:
        if self._package is None:
            raise EngineError("the stage is closed")
        model = self._package.function(function)
        if self._state is None:
            self._state = model.make_state()
        try:
            outputs = model.predict(inputs, state=self._state)
        except Exception as error:
            raise EngineError(f"Core ML cannot run {function}: {error}") from error
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

    def close(self) -> None:
        self._package = self._state = None


def check_system(system: str, release: str) -> None:
    """Raise EngineError where Core ML cannot run (``release``: macOS version, such as 15.2)."""
    other = "use --engine coreml-interpreter to check the file here"
    if system != "darwin":
        raise EngineError(f"Core ML runs on macOS only; {other}")
    if int(release.split(".")[0] or 0) < MINIMUM_MACOS:
        raise EngineError(f"Core ML states need macOS {MINIMUM_MACOS}, this is {release}; {other}")


@register_engine("coreml")
def open_coreml(bundle: Bundle, options: EngineOptions) -> CoreMLEngine:
    """The engine of ``--engine coreml``; device cpu, gpu, ane (Neural Engine) or all."""
    check_system(sys.platform, platform.mac_ver()[0])
    return CoreMLEngine(bundle, options, import_coremltools("the engine coreml"))
