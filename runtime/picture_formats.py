"""Pictures and their recipe in files of every format that a name can ask for."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .atomic import atomic_file
from .errors import UsageError
from .images import Bytes, Floats, grid_columns, to_uint8
from .outputs import JPEG, NPY, NPZ, PICTURES, PNG, WEBP
from .pictures import write_array
from .png import encode_png, sheet_of, with_columns
from .prepare import MODES
from .recipe import Recipe
from .recipe_files import exif_with
from .spec import ImageSpec

JPEG_QUALITY = 95  # with 4:4:4 colours
_OPTIONS: dict[str, dict[str, Any]] = {
    JPEG: {"quality": JPEG_QUALITY, "subsampling": 0},
    WEBP: {"lossless": True},
}
_MAX_SIDE = {JPEG: 65_500, WEBP: 16_383}  # pixels
_MAX_EXIF = {JPEG: 65_533}  # bytes of one segment

PathLike = str | os.PathLike[str]


def write_pictures(
    path: PathLike,
    kind: str,
    images: Floats,
    recipe: Recipe | None = None,
    *,
    columns: int | None = None,
    noise: Floats | None = None,
) -> Path:
    """Write [N, C, H, W] as the format ``kind``, whole or not at all.

    Args:
        images: float32; arrays take them as they are, pictures by the 8-bit rule.
        recipe: left out where has_room() says so, and of a ``.npy``, which holds one array.
        columns: pictures in a row of a grid; None makes it about square.
        noise: [N, T, D] for the ``.npz``.
    """
    if kind == NPY:
        write_array(path, images)
        return Path(path)
    if kind == NPZ:
        arrays = {"images": images}
        if noise is not None:
            arrays["noise"] = noise
        write_npz(path, **arrays, **(_arrays_of(recipe) if recipe else {}))
        return Path(path)
    data = encode_picture(kind, to_uint8(images), recipe, columns=columns)
    with atomic_file(path) as file:
        file.write(data)
    return Path(path)


def encode_picture(
    kind: str, pictures: Bytes, recipe: Recipe | None = None, *, columns: int | None = None
) -> bytes:
    """The file of one picture or a grid, PNG, JPEG or WebP; WebP is lossless."""
    if kind == PNG:
        return encode_png(pictures, recipe, columns=columns)
    image, file = sheet_of(pictures, columns, kind), io.BytesIO()
    check_pixels("the picture", kind, *image.size)
    options = dict(_OPTIONS[kind])
    if recipe and has_room(kind, recipe, len(pictures), columns):
        options["exif"] = exif_with(with_columns(recipe, len(pictures), columns))
    image.save(file, kind, **options)
    return file.getvalue()


def has_room(kind: str, recipe: Recipe, num_pictures: int, columns: int | None = None) -> bool:
    """Whether the file can hold the recipe: a ``.npy`` cannot, JPEG has 64 KB for it."""
    if kind == NPY:
        return False
    if kind not in _MAX_EXIF:
        return True
    return len(exif_with(with_columns(recipe, num_pictures, columns))) <= _MAX_EXIF[kind]


def check_sheet(
    path: PathLike, kind: str, count: int, columns: int | None, spec: ImageSpec
) -> None:
    """Refuse pictures that the format cannot hold, before the work.

    Raises:
        UsageError: neither grey nor RGB, more pixels than the format has, or pillow lacks it.
    """
    if kind not in PICTURES:
        return
    if spec.in_channels not in MODES:
        raise UsageError(
            f"this model's images have {spec.in_channels} channels, which no {kind} holds: "
            "write a .npy"
        )
    columns = min(grid_columns(count) if columns is None else columns, count)
    rows = -(-count // columns)
    check_pixels(path, kind, columns * (spec.img_size + 2) - 2, rows * (spec.img_size + 2) - 2)


def check_pixels(path: PathLike, kind: str, width: int, height: int) -> None:
    """Refuse a picture that is too large for its format.

    Raises:
        UsageError: or pillow was built without the format.
    """
    if kind in (JPEG, WEBP):
        from PIL import features  # most pictures are PNGs

        if not features.check({JPEG: "jpg", WEBP: "webp"}[kind]):
            raise UsageError(f"{path}: pillow was built without {kind} here: name a .png")
    limit = _MAX_SIDE.get(kind)
    if limit is not None and max(width, height) > limit:
        raise UsageError(
            f"{path}: {width:,} x {height:,} pixels, and a {kind} has at most {limit:,} a side: "
            "name a .png"
        )


def write_npz(path: PathLike, **arrays: object) -> None:
    """Write named arrays, whole or not at all; floats as little-endian float32."""
    plain: dict[str, Any] = {name: _plain(array) for name, array in arrays.items()}
    with atomic_file(path) as file:
        np.savez(file, **plain)


def _plain(value: object) -> npt.NDArray[Any]:
    array = np.asarray(value)
    return array.astype("<f4") if array.dtype == np.float32 else array


def _arrays_of(recipe: Recipe) -> dict[str, object]:
    """Seeds, labels (-1 is none) and the recipe's text."""
    labels = [-1 if label is None else label for label in recipe.labels]
    return {
        "seeds": np.array(recipe.seeds, "<u8"),
        "labels": np.array(labels, "<i8"),
        "recipe": np.array(recipe.dumps()),
    }
