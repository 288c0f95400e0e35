"""PNG files that carry the recipe of their pictures."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .atomic import atomic_file
from .errors import UsageError
from .images import Bytes, grid, grid_columns
from .recipe import Recipe
from .recipe_files import KEY

_COMPRESS_LEVEL = 6  # zlib's default, stated so that the same pixels give the same bytes


def encode_png(
    pictures: Bytes, recipe: Recipe | None = None, *, columns: int | None = None
) -> bytes:
    """A PNG of one picture or a grid; the same bytes for the same input and pillow build.

    Args:
        pictures: [N, C, H, W]; C is 1 or 3.
        recipe: written into the text chunks ``flowship`` (JSON), ``Software`` and ``Description``,
            with the columns of the grid.
        columns: pictures in a row where there are several; None makes the grid about square.

    Raises:
        UsageError: no pictures, or pictures that are neither grey nor RGB.
    """
    image = sheet_of(pictures, columns, "PNG")
    text, file = PngInfo(), io.BytesIO()
    if recipe:
        _add_recipe(text, with_columns(recipe, len(pictures), columns))
    image.save(file, "PNG", pnginfo=text, compress_level=_COMPRESS_LEVEL)
    return file.getvalue()


def sheet_of(pictures: Bytes, columns: int | None, kind: str) -> Image.Image:
    """One picture or a grid, for a file of the format ``kind``."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        shape = ", ".join(map(str, pictures.shape))
        raise UsageError(
            f"a {kind} holds grey or RGB pictures (uint8 [N, 1 or 3, H, W]), not {pictures.dtype} "
            f"[{shape}]: write a .npy"
        )
    sheet = grid(pictures, columns)
    return Image.fromarray(sheet[0] if len(sheet) == 1 else sheet.transpose(1, 2, 0))


def with_columns(recipe: Recipe, num_pictures: int, columns: int | None) -> Recipe:
    """The recipe of a file of so many pictures."""
    columns = grid_columns(num_pictures) if columns is None else columns
    return replace(recipe, columns=columns if num_pictures > 1 else None)


def write_png(
    path: str | os.PathLike[str],
    pictures: Bytes,
    recipe: Recipe | None = None,
    *,
    columns: int | None = None,
) -> Path:
    """Write encode_png() to a file, whole or not at all, and return its path.

    Raises:
        UsageError: as encode_png(), or the folder does not exist.
    """
    data = encode_png(pictures, recipe, columns=columns)
    with atomic_file(path) as file:
        file.write(data)
    return Path(path)


def _add_recipe(text: PngInfo, recipe: Recipe) -> None:
    text.add_text(KEY, recipe.dumps())
    text.add_text("Software", f"flowship {recipe.flowship_version}")
    text.add_itxt("Description", recipe.description)  # iTXt: a name may not be Latin-1
