"""Inverting one autoregressive block: latents in, patches out, in prefix-committing windows.

x[t] = z[t] * exp(xa(x[<t])) + xb(x[<t]) for t = 1..T-1, and x[0] = z[0]. One call evaluates a
window of patches from the current guess of all of them. Its first result is exact, because it
depends on committed patches alone; each further one is exact too if the patch before it did not
move by more than the tolerance. That prefix is committed and the window slides. W = 1 is plain
sequential sampling; no window ever needs more calls than it. Cache rows past the committed prefix
hold guesses and are overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .engines.base import ARStage
from .guidance import Guidance

Floats = npt.NDArray[np.float32]

# Where the guesses of a call move by so much together, or one is not finite, they are clipped to
# +-GUESS_LIMIT: a NaN behind the causal mask would still poison the attention's values. Far above
# anything a trained model commits, which is never clipped.
GUESS_LIMIT = np.float32(1e4)
PATIENCE = 8  # calls between two looks at whether a window pays


def invert_sequential(
    stage: ARStage, x: Floats, guidance: Guidance, weights: Floats
) -> Iterator[int]:
    """Sequential sampling (W = 1) of N pictures in lock step.

    Args:
        stage: opened and begun.
        x: [N, T, D] latents in the block's order; becomes the patches, in place.
        guidance: combines the branches.
        weights: [T - 1, 1], from Guidance.weights().

    Yields:
        The number of committed patches after every call.
    """
    T = x.shape[1]
    guided, scale = guidance.branches == 2, np.empty_like(x[:, :1])
    known = x[:, :1]
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are found at the end
        for p in range(T - 1):
            xa, xb = stage.step(known, p)
            if guided:
                xa, xb = guidance.combine(xa, xb, weights[p : p + 1])
            else:
                xa, xb = xa[0], xb[0]
            known = x[:, p + 1 : p + 2]
            np.exp(xa, out=scale)
            np.multiply(known, scale, out=known)
            np.add(known, xb, out=known)
            yield p + 2


def invert_windowed(
    stage: ARStage,
    x: Floats,
    guidance: Guidance,
    weights: Floats,
    window: int,
    tolerance: float,
    min_committed: float = 0.0,
) -> Iterator[int]:
    """Sampling of one picture in windows of up to W patches; arguments as above, N = 1.

    Args:
        tolerance: largest change of a patch that counts as none.
        min_committed: where PATIENCE calls commit fewer patches on average, the rest of the block
            goes on with W = 1. (It depends on the picture alone, never on time.)
    """
    T, D = x.shape[1:]
    guided, patches, z = guidance.branches == 2, x[0], x[0].copy()
    window = min(window, T - 1)  # plans are files: the room they ask for must not be theirs to say
    room = np.empty((window, D), np.float32)
    p, calls, since = 0, 0, 0
    with np.errstate(over="ignore", invalid="ignore"):
        while p < T - 1:
            n = min(window, T - 1 - p)
            end = p + n + 1
            xa, xb = stage.step(x[:, p : end - 1], p)
            if guided:
                xa, xb = guidance.combine(xa, xb, weights[p : p + n])
            else:
                xa, xb = xa[0], xb[0]
            known, found = patches[p + 1 : end], room[:n]
            np.exp(xa[0], out=found)
            np.multiply(found, z[p + 1 : end], out=found)
            np.add(found, xb[0], out=found)
            committed = 1
            if n > 1:
                np.subtract(found, known, out=known)
                np.abs(known, out=known)
                moved = np.maximum.reduce(known, axis=1).tolist()  # a NaN stays a NaN
                committed += _settled(moved, tolerance)
                if not sum(moved) < GUESS_LIMIT:
                    guesses = found[1:]
                    np.fmax(guesses, -GUESS_LIMIT, out=guesses)  # fmax and fmin take NaN away
                    np.fmin(guesses, GUESS_LIMIT, out=guesses)
            known[:] = found
            p += committed
            calls += 1
            if calls % PATIENCE == 0:
                window = window if p - since >= PATIENCE * min_committed else 1
                since = p
            yield p + 1


def _settled(moved: list[float], tolerance: float) -> int:
    """How many patches at the beginning did not move; of the last one nothing depends on it."""
    for count, change in enumerate(moved[:-1]):
        if not change <= tolerance:
            return count
    return len(moved) - 1
