"""How long one call of each window takes on this device, engine and precision."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from statistics import median

import numpy as np
import numpy.typing as npt

from .engines.base import ARStage
from .flow import Flow, draw_noise
from .guidance import Guidance
from .model import Model
from .normal import normals
from .sampler import invert_sequential, invert_windowed
from .spec import ARBlock

Floats = npt.NDArray[np.float32]

# Calls come in bursts as in sampling, where a block's window is called again and again: calls of
# other lengths in between would evict from the caches what the next one needs.
TURNS, MIN_BURST, MAX_BURST = 7, 4, 32
LONG_BURST = 0.005  # seconds after which a burst need not go on
GUIDED = Guidance(1.0, attn_temp=0.9)


def time_windows(
    model: Model, block: ARBlock, windows: Sequence[int], guided: bool, turns: int = TURNS
) -> dict[int, float]:
    """Median seconds of a call for each window length, the sampler's host code included.

    The windows take turns, so that a busy moment of the machine hits all of them; the first turn
    and the first half of each burst are not counted; the cache is half full, as it is on average.
    """
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    guidance = GUIDED if guided else Guidance()
    label = 0 if spec.num_classes else None
    noise = normals(0, (T + MAX_BURST) * D).reshape(1, -1, D)
    samples: dict[int, list[float]] = {window: [] for window in windows}
    with model.stage(block, [label], guidance) as stage:
        middle = (T - 1) // 2
        stage.step(np.ascontiguousarray(noise[:, :middle]), 0) if middle else None
        for turn, order in enumerate(islice(orders(0, len(windows)), turns + 1)):
            for window in (windows[number] for number in order):
                x = noise[:, : window + MAX_BURST].copy()
                found = _burst(_InTheMiddle(stage, middle, T), x, guidance, window)
                samples[window] += found[len(found) // 2 :] if turn else []
    return {window: median(found) for window, found in samples.items()}


def sequential_estimate(model: Model) -> float:
    """Seconds of a picture without guidance and windows, from a few calls of its first block."""
    blocks, T = model.bundle.spec.ar_blocks, model.bundle.spec.image.num_patches
    return len(blocks) * (T - 1) * time_windows(model, blocks[0], [1], False, turns=1)[1]


def time_pictures(flows: Sequence[Flow], guided: bool, turns: int = TURNS) -> list[float]:
    """Median seconds of a whole picture with each flow's plan; the first turn is not counted."""
    samples: list[list[float]] = [[] for _ in flows]
    for order in islice(orders(0, len(flows)), turns + 1):
        for number in order:
            samples[number].append(decode_once(flows[number], guided))
    return [median(found[1:]) for found in samples]


def decode_once(flow: Flow, guided: bool) -> float:
    """Seconds of one whole picture."""
    noise, label = draw_noise([0], flow.spec), 0 if flow.spec.num_classes else None
    start = time.perf_counter()
    flow.decode(
        noise,
        label=label,
        guidance=GUIDED.scale if guided else 0.0,
        attn_temp=GUIDED.attn_temp if guided else 1.0,
    )
    return time.perf_counter() - start


def orders(seed: int, count: int) -> Iterator[list[int]]:
    """Orders of ``count`` things that take turns, one for each round: shuffled, then backwards.

    Each is first as often as last, so that no place in the turn favours it.
    """
    rng = Random(seed)
    while True:
        order = list(range(count))
        rng.shuffle(order)
        yield order
        yield order[::-1]


class _InTheMiddle:
    """A stage whose sequence begins at a position of another one's."""

    def __init__(self, stage: ARStage, offset: int, num_patches: int) -> None:
        self.windows = stage.windows
        self._stage, self._offset, self._end = stage, offset, num_patches

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        raise AssertionError("it has begun")

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        return self._stage.step(x, min(self._offset + position, self._end - x.shape[1]))

    def close(self) -> None:
        """The stage is closed by whoever opened it."""


def _burst(stage: ARStage, x: Floats, guidance: Guidance, window: int) -> list[float]:
    """Seconds of each of some calls of the sampler on [1, W + MAX_BURST, D]."""
    weights = guidance.weights(x.shape[1])
    if window == 1:
        calls = invert_sequential(stage, x, guidance, weights)
    else:  # nothing settles at a tolerance below 0: every call commits one patch
        calls = invert_windowed(stage, x, guidance, weights, window, -1.0)
    found, begin = [], time.perf_counter()
    start = begin
    for _ in islice(calls, MAX_BURST):
        now = time.perf_counter()
        found.append(now - start)
        start = now
        if len(found) >= MIN_BURST and now - begin > LONG_BURST:
            break
    return found
