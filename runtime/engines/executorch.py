"""ExecuTorch: the .pte programs of a bundle on the CPU (XNNPACK), one picture at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, UsageError
from ..manifest import Artifact
from ..spec import ARBlock
from .base import ARStage, EngineInfo, EngineOptions, Floats, VJPStage, register_engine
from .executorch_program import THREAD_POOL, Program, ProgramRuntime, find_runtime
from .menu import split_window
from .resources import default_threads, resident_bytes

if TYPE_CHECKING:
    from ..bundle import Bundle

FILE_COPIES = 2  # the mapped file and XNNPACK's packed weights
CACHE_BRANCHES = 3  # a program has a KV cache for one branch and another for two
CACHE_BYTES = {"fp16": 2}  # of a key or value; float32 in every other precision


class ExecuTorchEngine:
    """Opens the programs of one bundle and precision.

    Programs are kept for the next picture as long as all blocks together fit a third of the
    machine's memory. A program serves one stage at a time, because its KV cache is part of it.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        if options.device != "cpu":
            raise UsageError(
                f"the engine executorch has no device {options.device!r}: choose from cpu"
            )
        self._bundle, self._precision = bundle, options.precision
        self._runtime = find_runtime()
        sizes = self._file_bytes()
        threads = options.threads or default_threads(max(sizes, default=0))
        self._keep = FILE_COPIES * sum(sizes) + self._cache_bytes() <= resident_bytes()
        self._idle: dict[Path, list[_Loaded]] = {}
        self.info = EngineInfo(
            "executorch", self._runtime.version, "cpu", options.precision, threads
        )

    def _file_bytes(self) -> list[int]:
        manifest = self._bundle.manifest
        own = {
            file
            for artifact in manifest.artifacts
            if (artifact.engine, artifact.precision) == ("executorch", self._precision)
            for file in artifact.files
        }
        return [manifest.files[file].bytes for file in own]

    def _cache_bytes(self) -> int:
        spec = self._bundle.manifest.spec
        rows = sum(2 * block.num_layers * block.channels for block in spec.ar_blocks)
        value = CACHE_BYTES.get(self._precision, 4)
        return CACHE_BRANCHES * rows * spec.image.num_patches * value

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
        if num_images != 1:
            raise EngineError(f"the engine executorch runs one picture at a time, not {num_images}")
        artifact = self._find(stage, "step", branches)
        image = self._bundle.manifest.spec.image
        return _StepStage(
            self._take(artifact),
            self._give_back,
            artifact,
            stage,
            image.num_patches,
            image.patch_dim,
        )

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        artifact = self._find(stage, "vjp", 1)
        image = self._bundle.manifest.spec.image
        shape = (image.num_patches, image.patch_dim)
        return _VjpStage(self._take(artifact), self._give_back, stage, shape)

    def close(self) -> None:
        for programs in self._idle.values():
            for loaded in programs:
                loaded.close()
        self._idle.clear()
        self._keep = False

    def _find(self, stage: ARBlock, role: str, branches: int) -> Artifact:
        found = self._bundle.manifest.find(
            "executorch", self._precision, role, stage.name, branches
        )
        if not found:
            what = "denoising" if role == "vjp" else f"{branches}-branch {role}"
            raise EngineError(
                f"the bundle has no {what} method of {stage.name} for executorch {self._precision}"
                f"{self._denoised_by() if role == 'vjp' else ''}"
            )
        return found[0]

    def _denoised_by(self) -> str:
        """Who else has the denoising methods, in words: quantized programs have none."""
        own = ("executorch", self._precision)
        artifacts = [a for a in self._bundle.manifest.artifacts if a.role == "vjp"]
        others = {(a.engine, a.precision) for a in artifacts} - {own}
        if not others:
            return ""
        names = ", ".join(" ".join(other) for other in sorted(others))
        return f", but for {names}"

    def _take(self, artifact: Artifact) -> _Loaded:
        path = self._bundle.artifact_path(artifact)
        idle = self._idle.get(path)
        return idle.pop() if idle else _Loaded(self._runtime, path, self.info.threads)

    def _give_back(self, loaded: _Loaded) -> None:
        if self._keep:
            self._idle.setdefault(loaded.path, []).append(loaded)
        else:
            loaded.close()


class _Loaded:
    """A program with its buffers and calls.

    Attributes:
        poisoned: a call gave NaN or infinity, so rows of the KV cache may hold some, and those
            would spoil later results even behind the mask.
    """

    def __init__(self, runtime: ProgramRuntime, path: Path, threads: int) -> None:
        THREAD_POOL.acquire(threads, runtime.set_threads)
        try:
            self.program: Program = runtime.open(path)
        except BaseException:
            THREAD_POOL.release()
            raise
        self.path, self.poisoned = path, False
        self.windows: dict[tuple[int, int], _Window] = {}
        self._close = weakref.finalize(self, _close_program, self.program)

    def close(self) -> None:
        self.windows.clear()
        self._close()


def _close_program(program: Program) -> None:
    program.close()
    THREAD_POOL.release()


class _Window:
    """Buffers of one window length, bound to its method once."""

    def __init__(
        self, program: Program, method: str, rows: int, window: int, sizes: tuple[int, int, int]
    ) -> None:
        patch_dim, channels, output_dim = sizes
        self.x = np.zeros((rows, window, patch_dim), np.float32)
        self.context = np.zeros((rows, window, channels), np.float32)
        self.position = np.zeros(window, np.int64)
        self.q_scale = np.ones(rows, np.float32)
        self.ab = np.zeros((rows, window, output_dim), np.float32)
        inputs: list[npt.NDArray[np.float32] | npt.NDArray[np.int64]]
        inputs = [self.x, self.context, self.position]
        if rows > 1:
            inputs.append(self.q_scale)
        self.call = program.bind(method, inputs, self.ab)


class _Stage:
    """What has a program to itself until it is closed."""

    def __init__(self, loaded: _Loaded, give_back: Callable[[_Loaded], None]) -> None:
        self._loaded, self._give_back, self._closed = loaded, give_back, False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._give_back(self._loaded)


class _StepStage(_Stage):
    """A block with its cache: ``step{W}`` or ``guided{W}``; without {W} where W is dynamic."""

    def __init__(
        self,
        loaded: _Loaded,
        give_back: Callable[[_Loaded], None],
        artifact: Artifact,
        block: ARBlock,
        num_patches: int,
        patch_dim: int,
    ) -> None:
        super().__init__(loaded, give_back)
        self.windows, self._rows = artifact.windows, artifact.branches
        self._method = "step" if artifact.branches == 1 else "guided"
        self._nvp, self._D = block.scale != "none", patch_dim
        self._sizes = (patch_dim, block.channels, patch_dim * (2 if self._nvp else 1))
        self._ramp = np.arange(num_patches, dtype=np.int64)
        self._pos = self._classes = self._q_scale = np.zeros(0, np.float32)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        if self._loaded.poisoned:
            self._loaded.program.clear()
            self._loaded.poisoned = False
        self._pos, self._classes, self._q_scale = pos, classes, q_scale

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        window = x.shape[1]
        if not self.windows or window in self.windows:
            return self._split(self._run(x, position))
        ab = np.empty((self._rows, window, self._sizes[2]), np.float32)
        start = 0
        for part in split_window(window, self.windows):
            end = start + part
            ab[:, start:end] = self._run(x[:, start:end], position + start)
            start = end
        return self._split(ab)

    def _run(self, x: Floats, position: int) -> Floats:
        window = x.shape[1]
        bound = self._bound(window)
        end = position + window
        bound.x[:] = x
        np.add(self._pos[position:end], self._classes, out=bound.context)
        bound.position[:] = self._ramp[position:end]
        bound.q_scale[:] = self._q_scale
        bound.call()
        if not np.isfinite(np.add.reduce(bound.ab, axis=None)):
            self._loaded.poisoned = True
        return bound.ab

    def _bound(self, window: int) -> _Window:
        found = self._loaded.windows.get((self._rows, window))
        if found is None:
            method = f"{self._method}{window}" if self.windows else self._method
            found = _Window(self._loaded.program, method, self._rows, window, self._sizes)
            self._loaded.windows[self._rows, window] = found
        return found

    def _split(self, ab: Floats) -> tuple[Floats, Floats]:
        """[branches, W, 2D or D] to (xa, xb), each [branches, 1, W, D]."""
        xb = ab[:, None, :, -self._D :]
        return (ab[:, None, :, : self._D] if self._nvp else np.zeros_like(xb)), xb


class _VjpStage(_Stage):
    def __init__(
        self,
        loaded: _Loaded,
        give_back: Callable[[_Loaded], None],
        block: ARBlock,
        shape: tuple[int, int],
    ) -> None:
        super().__init__(loaded, give_back)
        self._x, self._xa, self._xb, self._grad = (np.zeros(shape, np.float32) for _ in range(4))
        self._context = np.zeros((shape[0], block.channels), np.float32)
        grads = [self._xb] if block.scale == "none" else [self._xa, self._xb]
        inputs = [self._x, self._context, *grads]
        self._call = loaded.program.bind("vjp", inputs, self._grad)

    def run(self, x: Floats, context: Floats, grad_xa: Floats, grad_xb: Floats) -> Floats:
        self._x[:], self._context[:], self._xa[:], self._xb[:] = x, context, grad_xa, grad_xb
        self._call()
        grad: Floats = self._grad.copy()
        return grad


@register_engine("executorch")
def open_executorch(bundle: Bundle, options: EngineOptions) -> ExecuTorchEngine:
    """The engine of ``--engine executorch``; device cpu."""
    return ExecuTorchEngine(bundle, options)
