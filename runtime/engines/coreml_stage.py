"""What every way of running a Core ML step package shares: window menu, mask, rows of the context.

A package has, for each window length W of its menu, a function ``step{W}`` (one row) and a function
``guided{W}`` (two rows, one for each guidance branch). Their inputs are

    x         float32 [R, W, D]     patches
    context   float32 [R, W, C]     position + class rows
    mask      float32 [1, 1, W, S]  additive, 0 or MASKED; S is cache_rows(T)
    position  int32   [1]           number of patches before the window; form ``slice`` only
    write     float32 [1, 1, S, W]  1 where row position+i and column i meet; form ``blend`` only
    q_scale   float32 [R, 1, 1, 1]  factor on the queries; guided functions only

and their outputs xa (unless the block only shifts) and xb, float32 [R, W, D]. The KV cache is the
functions' state, float16 [R, H, S, d] for ``k_0``, ``v_0``, ``k_1``, ... (guided functions:
``guided_k_0``, ...); functions of one kind have the same states, so one state serves all windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..manifest import Artifact, Manifest
from ..spec import ARBlock
from .base import Floats
from .menu import split_window

Array = npt.NDArray[Any]

# Finite, because infinities are not dependable on every compute unit; twice it is still a float16,
# so that no logit above it overflows when the mask is added.
MASKED = -3e4

# The Neural Engine refuses states whose dimensions are no multiples of 32
# (github.com/apple/coremltools/issues/2631), so caches have spare rows that the mask hides.
CACHE_ROW_MULTIPLE = 32

FORMS = ("slice", "blend")  # how a program writes its cache


def cache_rows(num_patches: int) -> int:
    """S: rows of the KV cache of a sequence of T patches."""
    return -(-num_patches // CACHE_ROW_MULTIPLE) * CACHE_ROW_MULTIPLE


def function_name(branches: int, window: int) -> str:
    """Name of the function for one window length and 1 or 2 guidance branches."""
    return f"{'step' if branches == 1 else 'guided'}{window}"


def causal_mask(position: int, window: int, rows: int) -> Floats:
    """[1, 1, W, S]: row i may see the cache rows 0..position+i."""
    last = np.arange(position, position + window)[:, None]
    mask: Floats = np.where(np.arange(rows) <= last, np.float32(0), np.float32(MASKED))
    return mask[None, None]


def write_positions(position: int, window: int, rows: int) -> Floats:
    """[1, 1, S, W]: one-hot columns that say where row i of a window goes."""
    write: Floats = np.eye(rows, window, -position, dtype=np.float32)
    return write[None, None]


def find_step(
    manifest: Manifest, precision: str, stage: ARBlock, branches: int, num_images: int
) -> Artifact:
    """The Core ML artifact of a stage.

    Raises:
        EngineError: the bundle has none, or several pictures at once are asked for.
    """
    if num_images != 1:
        raise EngineError(f"Core ML runs one picture at a time, not {num_images}")
    found = manifest.find("coreml", precision, "step", stage.name, branches)
    if found:
        return found[0]
    available = ", ".join(manifest.precisions.get("coreml", ())) or "none"
    raise EngineError(
        f"the bundle {manifest.name!r} has no Core ML step of {stage.name} for precision "
        f"{precision!r} and branches {branches} (its Core ML precisions: {available}): export it "
        "with --targets coreml"
    )


def package_bytes(manifest: Manifest, precision: str) -> int:
    """Size of all Core ML packages of a precision."""
    artifacts = (a for a in manifest.artifacts if a.engine == "coreml")
    files = {f for a in artifacts if a.precision == precision for f in a.files}
    return sum(manifest.files[f].bytes for f in files)


def no_vjp() -> EngineError:
    """What open_vjp raises."""
    return EngineError("Core ML bundles have no denoise graph: use --engine onnx or executorch")


class Runner(Protocol):
    """Runs functions of one package; its state lives from one call to the next."""

    def reset(self) -> None:
        """Forget the state."""

    def run(self, function: str, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """Run one function on the current state."""

    def close(self) -> None:
        """Free the package."""


class StepStage:
    """An ARStage for one picture on top of a Runner."""

    def __init__(self, runner: Runner, stage: ARBlock, artifact: Artifact) -> None:
        if artifact.form not in FORMS:
            raise EngineError(
                f"{artifact.path}: unknown form {artifact.form!r} of a Core ML step, expected "
                f"{' or '.join(FORMS)}: update flowship"
            )
        self.windows = artifact.windows
        self._runner, self._branches, self._form = runner, artifact.branches, artifact.form
        self._shift_only = stage.scale == "none"
        self._context: Floats = np.zeros((self._branches, 0, stage.channels), np.float32)
        self._scale: dict[str, Array] = {}

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        if self._branches == 2:
            self._scale = {"q_scale": np.array(q_scale, np.float32).reshape(2, 1, 1, 1)}
        elif q_scale[0] != 1:
            raise EngineError(
                f"a query scale of {q_scale[0]} needs a stage opened with branches=2: Core ML "
                "steps of one branch have none"
            )
        self._context = pos[None] + classes  # [R, T, C], from [1, T, C] + [R, N = 1, C]
        self._runner.reset()

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        outputs, start = [], 0
        for window in split_window(x.shape[1], self.windows):
            outputs.append(self._run(x[:, start : start + window], position + start))
            start += window
        xa, xb = zip(*outputs, strict=True)
        return np.concatenate(xa, 1)[:, None], np.concatenate(xb, 1)[:, None]

    def _run(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        """[1, W, D] patches of a window of the menu to (xa, xb), each [R, W, D]."""
        window, total = x.shape[1], self._context.shape[1]
        assert position + window <= total, "a window ends with the sequence"
        rows = cache_rows(total)
        inputs: dict[str, Array] = {
            "x": np.repeat(x, self._branches, 0).astype(np.float32, copy=False),
            "context": np.ascontiguousarray(self._context[:, position : position + window]),
            "mask": causal_mask(position, window, rows),
            **self._scale,
        }
        if self._form == "slice":
            inputs["position"] = np.array([position], np.int32)
        else:
            inputs["write"] = write_positions(position, window, rows)
        outputs = self._runner.run(function_name(self._branches, window), inputs)
        xb = outputs["xb"]
        return (np.zeros_like(xb) if self._shift_only else outputs["xa"]), xb

    def close(self) -> None:
        self._runner.close()
