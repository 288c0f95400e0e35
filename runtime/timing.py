"""How long one call of each window takes on this device, engine and precision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import numpy as np

from .guidance import Guidance
from .model import Model
from .normal import normals
from .spec import ARBlock

ROUNDS, WARM_UP = 21, 3
GUIDED = Guidance(1.0, attn_temp=0.9)


def time_windows(
    model: Model, block: ARBlock, windows: Sequence[int], guided: bool, rounds: int = ROUNDS
) -> dict[int, float]:
    """Median seconds of a call for each window length, host code left out.

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
    return {window: median(found) for window, found in samples.items()}
