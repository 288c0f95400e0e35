"""How long one call of each window takes on this device, engine and precision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import numpy as np
import numpy.typing as npt

from .guidance import Guidance
from .model import Model
from .normal import normals
from .sampler import invert_sequential, invert_windowed
from .spec import ARBlock

Floats = npt.NDArray[np.float32]

ROUNDS, WARM_UP = 21, 3
GUIDED = Guidance(1.0, attn_temp=0.9)


def time_windows(
    model: Model, block: ARBlock, windows: Sequence[int], guided: bool, rounds: int = ROUNDS
) -> dict[int, float]:
    """Median seconds of a call for each window length, the sampler's host code included.

    The windows take turns, so that a busy moment of the machine hits all of them; the cache is half
    full, as it is on average.
    """
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    guidance = GUIDED if guided else Guidance()
    label = 0 if spec.num_classes else None
    noise = normals(0, T * D).reshape(1, T, D)
    samples: dict[int, list[float]] = {window: [] for window in windows}
    with ExitStack() as stack:
        stage = stack.enter_context(model.stage(block, [label], guidance))
        middle = (T - 1) // 2
        stage.step(np.ascontiguousarray(noise[:, :middle]), 0) if middle else None
        for turn in range(rounds + WARM_UP):
            for window in windows:
                position = min(middle, T - 1 - window)
                x = np.ascontiguousarray(noise[:, position : position + window])
                start = time.perf_counter()
                stage.step(x, position)
                if turn >= WARM_UP:
                    samples[window].append(time.perf_counter() - start)
    host = {window: _time_sampler((T, D), window, guidance) for window in windows}
    return {window: median(found) + host[window] for window, found in samples.items()}


class _Instant:
    """A stage that answers at once: what is left is the sampler's own time."""

    windows: tuple[int, ...] = ()

    def __init__(self, branches: int) -> None:
        self._branches = branches
        self._answers: dict[tuple[int, ...], Floats] = {}

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None: ...

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        if x.shape not in self._answers:
            self._answers[x.shape] = np.zeros((self._branches, *x.shape), np.float32)
        return self._answers[x.shape], self._answers[x.shape]

    def close(self) -> None: ...


def _time_sampler(shape: tuple[int, int], window: int, guidance: Guidance) -> float:
    """Seconds of host code between two engine calls: the fastest of three blocks of the model."""
    x = np.zeros((1, *shape), np.float32)
    weights, stage, found = guidance.weights(shape[0]), _Instant(guidance.branches), []
    for _ in range(3):
        # Nothing settles at a tolerance below 0: every call commits one patch.
        start = time.perf_counter()
        if window == 1:
            calls = sum(1 for _ in invert_sequential(stage, x, guidance, weights))
        else:
            calls = sum(1 for _ in invert_windowed(stage, x, guidance, weights, window, -1.0))
        found.append((time.perf_counter() - start) / max(calls, 1))
    return min(found)
