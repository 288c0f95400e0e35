"""Pictures as arrays: patches, the 8-bit rule, and how far two pictures are apart."""

from __future__ import annotations

from math import ceil, inf, sqrt

import numpy as np
import numpy.typing as npt

from .errors import NonFiniteError, UsageError
from .spec import ImageSpec
from .values import whole

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_PEAK = 2.0  # of PSNR: the width of [-1, 1]


def patchify(images: Floats, spec: ImageSpec) -> Floats:
    """[N, C, H, W] to [N, T, D]: patches row by row, each in the order channel, row, column."""
    N, (C, _, _), p = len(images), spec.shape, spec.patch_size
    side = spec.img_size // p
    tiles = images.reshape(N, C, side, p, side, p).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(tiles).reshape(N, spec.num_patches, spec.patch_dim)


def unpatchify(patches: Floats, spec: ImageSpec) -> Floats:
    """[N, T, D] to [N, C, H, W]: the inverse of patchify."""
    N, (C, H, W), p = len(patches), spec.shape, spec.patch_size
    side = spec.img_size // p
    tiles = patches.reshape(N, side, side, C, p, p).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(tiles).reshape(N, C, H, W)


def to_uint8(x: Floats) -> Bytes:
    """The 8-bit rule: round((clip(x, -1, 1) + 1) * 127.5), of any shape.

    Each operation rounds to float32 (in JavaScript: Math.fround after the addition and after the
    multiplication), and the last one rounds halves to the even number: 63.5 becomes 64, 62.5
    becomes 62. So every port gives the same bytes for the same float32 values.

    Raises:
        NonFiniteError: NaN or infinity, which is never written as a picture.
    """
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise NonFiniteError("a picture holds NaN or infinity: it is not written")
    one, half = np.float32(1), np.float32(127.5)
    levels: Bytes = np.rint((np.clip(x, -one, one) + one) * half).astype(np.uint8)
    return levels


def from_uint8(levels: Bytes) -> Floats:
    """(u / 255 - 0.5) / 0.5 in float32, operation by operation as the models were trained."""
    half = np.float32(0.5)
    images: Floats = (levels.astype(np.float32) / np.float32(255) - half) / half
    return images


def grid(pictures: Bytes, columns: int | None = None, padding: int = 2) -> Bytes:
    """Lay pictures out row by row, with white lines between them.

    Args:
        pictures: [N, C, H, W].
        columns: pictures in a row; None makes the grid about square.
        padding: width of the lines in pixels; there are none around the grid.

    Returns:
        [C, rows * (H + padding) - padding, columns * (W + padding) - padding].

    Raises:
        UsageError: no pictures, or ``columns`` below 1.
    """
    N, C, H, W = pictures.shape
    columns = grid_columns(N) if columns is None else whole(columns, "columns")
    if N < 1 or columns < 1:
        raise UsageError(f"a grid of {N} pictures in {columns} columns: expected 1 or more of both")
    columns = min(columns, N)
    rows, h, w = ceil(N / columns), H + padding, W + padding
    tiles = np.full((rows * columns, C, h, w), 255, np.uint8)
    tiles[:N, :, :H, :W] = pictures
    sheet = tiles.reshape(rows, columns, C, h, w).transpose(2, 0, 3, 1, 4)
    sheet = sheet.reshape(C, rows * h, columns * w)
    return np.ascontiguousarray(sheet[:, : rows * h - padding, : columns * w - padding])


def grid_columns(num_pictures: int) -> int:
    """Columns of a grid that is about square, at least as wide as high."""
    return ceil(sqrt(num_pictures))


def psnr_db(a: Floats, b: Floats) -> float:
    """PSNR in dB of the worst picture: peak 2, both clipped to [-1, 1].

    Args:
        a, b: the same shape; the first axis counts the pictures.

    Returns:
        inf where all are equal, -inf where a value is not finite.
    """
    _check_same_shape(a, b)
    return min(map(_psnr_db, a, b), default=inf)


def psnr_db_median(a: Floats, b: Floats) -> float:
    """The same of the median picture (the worse of two in the middle)."""
    _check_same_shape(a, b)
    return sorted(map(_psnr_db, a, b))[(len(a) - 1) // 2]


def _psnr_db(a: Floats, b: Floats) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return -inf
    difference = np.clip(a, -1, 1).astype(np.float64) - np.clip(b, -1, 1).astype(np.float64)
    error = float((difference**2).mean())
    return inf if error == 0 else float(10 * np.log10(_PEAK**2 / error))


def max_abs_error(a: Floats, b: Floats) -> float:
    """max |a - b|, unclipped; inf where a value is not finite."""
    _check_same_shape(a, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return inf
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def _check_same_shape(a: Floats, b: Floats) -> None:
    if a.shape != b.shape:
        raise UsageError(f"cannot compare arrays of the shapes {a.shape} and {b.shape}")
