"""ExecuTorch programs through the C library: numpy and ctypes, no torch (see shim.cpp)."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

import numpy as np

from ...errors import BundleError, EngineError
from ..executorch_program import Array, Floats

SCALAR_TYPES = {np.dtype(np.int64): 4, np.dtype(np.float32): 6}  # executorch::aten::ScalarType


class ShimRuntime:
    def __init__(self, library: Path, version: str) -> None:
        self.version = f"executorch {version} (torch-free shim)"
        try:
            self._library = _declare(ctypes.CDLL(str(library)))
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"{library} cannot be loaded ({error}): delete it, and build it again if you want "
                "to run without torch"
            ) from error

    def open(self, path: Path) -> ShimProgram:
        return ShimProgram(self._library, path)

    def set_threads(self, count: int) -> None:
        if self._library.flowship_threads(count) != count:
            raise EngineError(f"ExecuTorch's thread pool cannot be set to {count} threads")


class ShimProgram:
    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        self._library, self._path = library, path
        self._handle = library.flowship_open(os.fsencode(path))
        if not self._handle:
            raise BundleError(f"{path}: not an ExecuTorch program: {self._error()}")
        self._bindings: list[int] = []
        self._free = weakref.finalize(self, _free, library, self._handle, self._bindings)

    def _error(self) -> str:
        text: bytes = self._library.flowship_error()
        return text.decode(errors="replace")

    def bind(self, method: str, inputs: Sequence[Array], output: Floats) -> Callable[[], None]:
        arrays = [*inputs, output]
        assert all(array.flags.c_contiguous for array in arrays) and output.dtype == np.float32
        shapes = [size for array in inputs for size in array.shape]
        binding = self._library.flowship_bind(
            self._handle,
            method.encode(),
            len(inputs),
            (c_void_p * len(inputs))(*[array.ctypes.data for array in inputs]),
            (c_int * len(inputs))(*[SCALAR_TYPES[array.dtype] for array in inputs]),
            (c_int * len(inputs))(*[array.ndim for array in inputs]),
            (c_int * len(shapes))(*shapes),
            output.ctypes.data,
            output.nbytes,
        )
        if not binding:
            raise EngineError(f"{self._path}: cannot load {method!r}: {self._error()}")
        self._bindings.append(binding)
        run = self._library.flowship_run

        def call() -> None:
            if run(binding):
                raise EngineError(f"{self._path}: {method!r} failed: {self._error()}")
            _ = arrays  # alive as long as the library may touch their memory

        return call

    def clear(self) -> None:
        self._library.flowship_clear(self._handle)

    def close(self) -> None:
        self._free()


def _free(library: ctypes.CDLL, handle: int, bindings: list[int]) -> None:
    for binding in bindings:
        library.flowship_unbind(binding)
    library.flowship_close(handle)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Types of the functions of shim.cpp."""
    functions: dict[str, tuple[object, list[object]]] = {
        "error": (c_char_p, []),
        "threads": (c_int, [c_int]),
        "open": (c_void_p, [c_char_p]),
        "close": (None, [c_void_p]),
        "bind": (
            c_void_p,
            [
                *(c_void_p, c_char_p, c_int, POINTER(c_void_p)),
                *(POINTER(c_int), POINTER(c_int), POINTER(c_int), c_void_p, c_size_t),
            ],
        ),
        "unbind": (None, [c_void_p]),
        "run": (c_int, [c_void_p]),
        "clear": (None, [c_void_p]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"flowship_{name}")
        function.restype, function.argtypes = result, arguments
    return library
