"""ExecuTorch programs through its Python package, which imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, EngineError, MissingExtraError
from ..text import utf8_path
from .executorch_program import Array, Floats
from .quiet import quiet_native_stderr


class PackageRuntime:
    def __init__(self, version: str) -> None:
        self.version = f"executorch {version} (python)"
        try:
            with warnings.catch_warnings(), quiet_native_stderr():
                # "This API is experimental": there is no other one in Python.
                warnings.simplefilter("ignore")
                import executorch.extension.pybindings.portable_lib as native
                import torch
                from executorch.runtime import Runtime
        except ImportError as error:
            # The extension is there but torch is not, or it belongs to another version.
            raise MissingExtraError(
                f"the engine executorch ({error})", "torch", "executorch"
            ) from error
        self._native, self._torch, self._runtime = native, torch, Runtime.get()

    def open(self, path: Path) -> PackageProgram:
        return PackageProgram(self._runtime, self._torch, path)

    def set_threads(self, count: int) -> None:
        with quiet_native_stderr():
            self._native._unsafe_reset_threadpool(count)


class PackageProgram:
    def __init__(self, runtime: Any, torch: Any, path: Path) -> None:
        self._runtime, self._torch, self._path = runtime, torch, path
        self._methods: dict[str, Any] = {}
        self._load()

    def _load(self) -> None:
        name = utf8_path(self._path, "ExecuTorch")
        try:
            self._program = self._runtime.load_program(name)
        except RuntimeError as error:
            raise BundleError(f"{self._path}: not an ExecuTorch program: {error}") from error

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            if name not in self._program.method_names:
                raise EngineError(f"{self._path}: there is no method {name!r}")
            try:
                self._methods[name] = self._program.load_method(name)
            except RuntimeError as error:
                raise EngineError(f"{self._path}: cannot load {name!r}: {error}") from error
        return self._methods[name]

    def bind(self, method: str, inputs: Sequence[Array], output: Floats) -> Callable[[], None]:
        self._method(method)
        tensors = [self._torch.from_numpy(array) for array in inputs]  # the arrays' memory

        def call() -> None:
            try:
                found = self._method(method).execute(tensors)[0].numpy()
            except RuntimeError as error:
                raise EngineError(f"{self._path}: {method!r} failed: {error}") from error
            if found.dtype != np.float32 or found.shape != output.shape:
                raise EngineError(
                    f"{self._path}: {method!r} gave {found.dtype} {found.shape}, expected float32 "
                    f"{output.shape}"
                )
            np.copyto(output, found)

        return call

    def clear(self) -> None:
        """The package cannot reach the buffers: load again, then they are zero."""
        self._methods.clear()
        self._load()

    def close(self) -> None:
        self._methods.clear()
        self._program = None
