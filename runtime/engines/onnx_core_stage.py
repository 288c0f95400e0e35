"""A block in the ``core`` form: standard operators, static windows, the cache kept by the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..spec import ARBlock, ImageSpec
from .base import Floats
from .menu import split_window
from .onnx_forms import cache_dtype

if TYPE_CHECKING:
    import onnxruntime

# Finite, and inside the range of the precision.
MASKED, MASKED_FP16 = -1e30, -3e4


class CoreStage:
    """A block in the ``core`` form: static windows, the host keeps and commits the cache."""

    def __init__(
        self,
        sessions: dict[int, onnxruntime.InferenceSession],
        block: ARBlock,
        image: ImageSpec,
        branches: int,
        precision: str,
    ) -> None:
        self._sessions, self._branches = sessions, branches
        self._T, self._D = image.num_patches, image.patch_dim
        self._masked = MASKED_FP16 if precision == "fp16" else MASKED
        self._nvp = block.scale != "none"
        self.windows = tuple(sorted(sessions))
        shape = (branches, block.num_heads, self._T, block.head_dim)
        names = [f"{n}_{i}" for i in range(block.num_layers) for n in "kv"]
        self._cache = {name: np.zeros(shape, cache_dtype(precision)) for name in names}
        self._q_scale = np.ones((branches, 1, 1, 1), np.float32)
        self._pos = self._classes = np.zeros(0, np.float32)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._pos, self._classes = pos, classes
        self._q_scale[:, 0, 0, 0] = q_scale

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        outputs, start = [], 0
        for window in split_window(x.shape[1], self.windows):
            outputs.append(self._run(x[:, start : start + window], position + start))
            start += window
        ab = np.concatenate(outputs, 1)[:, None]
        xb = ab[..., -self._D :]
        return (ab[..., : self._D] if self._nvp else np.zeros_like(xb)), xb

    def _run(self, x: Floats, position: int) -> Floats:
        window, end = x.shape[1], position + x.shape[1]
        inputs = {
            "x": np.repeat(x, self._branches, 0),
            "context": self._pos[position:end] + self._classes,
            "mask": self._mask(position, window),
            "q_scale": self._q_scale,
            **{f"past_{name}": array for name, array in self._cache.items()},
        }
        session = self._sessions[window]
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, inputs), strict=True))
        for name, array in self._cache.items():
            array[:, :, position:end] = found[f"new_{name}"]
        ab: Floats = found["ab"]
        return ab

    def _mask(self, position: int, window: int) -> Floats:
        """[1, 1, W, T + W]: cache rows before position are seen, new rows causally."""
        mask = np.full((window, self._T + window), self._masked, np.float32)
        mask[:, :position] = 0
        mask[:, self._T :][np.tril_indices(window)] = 0
        return mask[None, None]

    def close(self) -> None:
        self._cache.clear()
