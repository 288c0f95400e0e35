"""What runs a .pte: ExecuTorch's C++ runtime through our small library, or its Python package.

Both link the same libraries of the installed wheel and give the same bits. The library loads no
torch, maps the file and packs each weight once; the package imports torch and packs the weights
anew for every method.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, MissingExtraError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class Program(Protocol):
    """An opened .pte. Its methods share weights and mutable buffers (the KV cache)."""

    def bind(self, method: str, inputs: Sequence[Array], output: Floats) -> Callable[[], None]:
        """Load a method and tie it to buffers.

        Args:
            inputs: int64 or float32, C-contiguous, in the method's order; read by every call.
            output: float32, C-contiguous; written by every call.

        Returns:
            The call. It raises EngineError if the method fails or returns another size.

        Raises:
            EngineError: there is no such method, or it cannot be loaded.
        """

    def clear(self) -> None:
        """Zero the mutable buffers. Bindings stay valid."""

    def close(self) -> None:
        """Free the program; its bindings cannot be called afterwards."""


class ProgramRuntime(Protocol):
    """Opens programs.

    Attributes:
        version: for a picture's recipe.
    """

    version: str

    def open(self, path: Path) -> Program:
        """Load a file.

        Raises:
            BundleError: it is not an ExecuTorch program of a version that can be read.
        """

    def set_threads(self, count: int) -> None:
        """Resize the process-wide pool of threads; only safe while no method is loaded."""


def find_runtime() -> ProgramRuntime:
    """The C library where it was built for the installed version, else the Python package.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    from .executorch_shim.build import find_library, find_wheel

    wheel = find_wheel()
    if wheel is None:
        raise MissingExtraError("the engine executorch", "executorch", "executorch")
    library = find_library(wheel)
    if library:
        from .executorch_shim.library import ShimRuntime

        return ShimRuntime(library, wheel.version)
    from .executorch_package import PackageRuntime

    return PackageRuntime(wheel.version)


class ThreadPool:
    """Keeps the one thread pool of the process at one size while programs are loaded.

    Loaded methods hold on to the pool, and resizing it under them hangs or crashes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads, self._programs = 0, 0

    def acquire(self, threads: int, resize: Callable[[int], None]) -> None:
        """Count one more program that runs with ``threads`` threads.

        Raises:
            EngineError: programs with another number of threads are loaded.
        """
        with self._lock:
            if threads != self._threads:
                if self._programs:
                    raise EngineError(
                        f"ExecuTorch has one thread pool in a process, and programs with "
                        f"threads={self._threads} are open: close them before asking for "
                        f"threads={threads}"
                    )
                resize(threads)
                self._threads = threads
            self._programs += 1

    def release(self) -> None:
        """Count one program less."""
        with self._lock:
            self._programs -= 1


THREAD_POOL = ThreadPool()
