"""Resizing of the last two axes, and blocks of pixels to channels and back.

Sources: coremltools' ``ops/defs/iOS15/image_resizing.py`` and ``tensor_transformation.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Array
from .registry import check_size, integer, op

Grid = npt.NDArray[np.float64]


def _scaled(size: int, factor: Any) -> int:
    return int(np.floor(size * float(factor)))


@op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(
    x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1
) -> Array:
    """Pixel i of the result is pixel floor(i / factor)."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        check_size([x.size // size, _scaled(size, factor)])
        places = np.floor(np.arange(_scaled(size, factor)) / float(factor)).astype(np.int64)
        x = np.take(x, np.minimum(places, size - 1), axis)
    return x


@op("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Array:
    """Linear interpolation; the factors are those of the two sizes, as floor() leaves them."""
    half = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    if align_corners and half:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        wanted = _scaled(x.shape[axis], factor)
        if align_corners:
            grid = _aligned(x.shape[axis], wanted)
        else:
            grid = _spaced(x.shape[axis], wanted, 0.5 if half else 0.0)
        x = _interpolate(x, grid, axis)
    return x


@op("resize_bilinear")
def resize_bilinear(
    x: Array,
    target_size_height: Any = 1,
    target_size_width: Any = 1,
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Linear interpolation on the grid that ``sampling_mode`` names."""
    for axis, target in ((-2, target_size_height), (-1, target_size_width)):
        size, wanted = x.shape[axis], integer(target)
        if sampling_mode == "UNALIGN_CORNERS":
            grid = _spaced(size, wanted, 0.5)
        elif sampling_mode == "STRICT_ALIGN_CORNERS":
            grid = _aligned(size, wanted)
        elif sampling_mode == "ALIGN_CORNERS":
            grid = _aligned(size, wanted) if wanted > 1 else np.array([(size - 1) / 2])
        elif sampling_mode == "DEFAULT":
            grid = _spaced(size, wanted, 0.0)
        else:
            raise ValueError(f"the sampling_mode {sampling_mode!r} is not supported")
        x = _interpolate(x, grid, axis)
    return x


def _aligned(size: int, wanted: int) -> Grid:
    """The first and last points of both are the same."""
    check_size([wanted])
    return np.arange(wanted, dtype=np.float64) * ((size - 1) / max(wanted - 1, 1))


def _spaced(size: int, wanted: int, shift: float) -> Grid:
    """Points that are size / wanted apart; a shift of 0.5 puts them at the centres of pixels."""
    check_size([wanted])
    points = (np.arange(wanted, dtype=np.float64) + shift) * (size / wanted) - shift
    return np.clip(points, 0, size - 1)


def _interpolate(x: Array, grid: Grid, axis: int) -> Array:
    check_size([x.size // x.shape[axis], len(grid)])
    below = np.floor(grid).astype(np.int64)
    above = np.minimum(below + 1, x.shape[axis] - 1)
    weight = (grid - below).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
    return np.asarray(np.take(x, below, axis) * (1 - weight) + np.take(x, above, axis) * weight)


@op("pixel_shuffle", moves=True)
def pixel_shuffle(x: Array, upscale_factor: Any) -> Array:
    """[N, C f f, H, W] to [N, C, H f, W f]."""
    f = integer(upscale_factor)
    N, C, H, W = x.shape
    blocks = x.reshape(N, C // f**2, f, f, H, W).transpose(0, 1, 4, 2, 5, 3)
    result: Array = blocks.reshape(N, C // f**2, H * f, W * f)
    return result


@op("pixel_unshuffle", moves=True)
def pixel_unshuffle(x: Array, downscale_factor: Any) -> Array:
    """[N, C, H f, W f] to [N, C f f, H, W]."""
    f = integer(downscale_factor)
    N, C, H, W = x.shape
    blocks = x.reshape(N, C, H // f, f, W // f, f).transpose(0, 1, 3, 5, 2, 4)
    result: Array = blocks.reshape(N, C * f**2, H // f, W // f)
    return result
