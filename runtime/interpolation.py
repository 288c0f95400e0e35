"""Paths between two latents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def slerp(first: Floats, last: Floats, t: float) -> Floats:
    """Spherical interpolation of two latents of one shape, t from 0 to 1.

    The direction turns evenly and the length changes linearly, so that latents in between stay as
    probable as their ends (Shoemake, "Animating rotation with quaternion curves", 1985; White,
    "Sampling generative networks", 2016). Parallel latents are interpolated linearly.
    """
    a, b = first.astype(np.float64), last.astype(np.float64)
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if length_a == 0 or length_b == 0:
        return ((1 - t) * a + t * b).astype(np.float32)
    cosine = float(np.clip((a * b).sum() / (length_a * length_b), -1, 1))
    angle = np.arccos(cosine)
    if np.sin(angle) < 1e-6:
        return ((1 - t) * a + t * b).astype(np.float32)
    direction = np.sin((1 - t) * angle) * a / length_a + np.sin(t * angle) * b / length_b
    length = (1 - t) * length_a + t * length_b
    found: Floats = (direction / np.sin(angle) * length).astype(np.float32)
    return found
