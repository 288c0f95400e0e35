"""Pictures, arrays of pictures and latents that a user names, read and checked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .atomic import atomic_file
from .errors import FlowshipError, UsageError
from .images import Floats, from_uint8
from .prepare import prepare
from .spec import FlowSpec, ImageSpec

PathLike = str | os.PathLike[str]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # pillow's decoders that a file may reach
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_SUFFIXES = (*PICTURE_SUFFIXES, ".npy")


def read_images(paths: Sequence[PathLike], spec: ImageSpec) -> Iterator[tuple[str, Floats]]:
    """Read pictures and arrays of pictures, one file at a time.

    Folders are searched through, sorted, without hidden files. A ``.npy`` holds float32 or float64
    [N, C, H, W] or [C, H, W] in [-1, 1] (any finite value is taken: a decoded picture is not
    clipped), or uint8 in these layouts or with the channels last; grey ones may leave them out.

    Args:
        spec: of the model; picture files of any size are resized and cropped, arrays must fit.

    Yields:
        Name and [N, C, H, W] float32 of each file.

    Raises:
        UsageError: nothing to read, or a file that cannot be; the message names it.
    """
    for path in _find_files(paths):
        if path.suffix.lower() == ".npy":
            yield str(path), _read_npy_images(path, spec)
        else:
            yield str(path), read_picture(path, spec)[None]


def read_picture(path: PathLike, spec: ImageSpec) -> Floats:
    """One picture file, resized and cropped, as [C, H, W] in [-1, 1].

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return prepare(image, spec)
    except FlowshipError as error:
        raise UsageError(f"{path}: {error}") from error
    # Decoders answer damaged files with OSError, SyntaxError, struct.error, MemoryError, ...
    except Exception as error:
        kinds = ", ".join(FORMATS)
        raise UsageError(f"{path} cannot be read as a picture ({kinds}): {error}") from error


def read_labelled(
    path: PathLike, spec: ImageSpec, limit: int
) -> tuple[Floats, tuple[int, ...] | None]:
    """The first ``limit`` pictures of a data set, and their labels where it has them.

    Args:
        path: ``.npz`` with ``images`` and perhaps ``labels`` (integers [N]), or what read_images()
            takes, which has none.

    Returns:
        [N, C, H, W] float32 with N <= limit, and N labels or None.

    Raises:
        UsageError: it cannot be read or does not fit the model.
    """
    if Path(path).suffix.lower() == ".npz":
        return _read_npz(Path(path), spec, limit)
    found: list[Floats] = []
    for _, images in read_images([path], spec):
        found.append(images[: limit - sum(map(len, found))])
        if sum(map(len, found)) >= limit:
            break
    return np.concatenate(found), None


def read_latents(path: PathLike, spec: FlowSpec) -> Floats:
    """Latents or noise from a ``.npy`` of float32 or float64 [N, T, D].

    Raises:
        UsageError: another shape or type, not finite, or not a ``.npy``.
    """
    T, D = spec.image.num_patches, spec.image.patch_dim
    array = _map_npy(Path(path))
    if array.ndim != 3 or array.shape[1:] != (T, D):
        raise UsageError(f"{path} has the shape {_show(array.shape)}, expected [N, {T}, {D}]")
    if array.dtype.kind != "f":
        raise UsageError(f"{path} holds {array.dtype}, expected float32")
    if not len(array):
        raise UsageError(f"{path} holds no latents")
    return _finite_float32(path, array)


def write_array(path: PathLike, array: npt.NDArray[Any]) -> None:
    """Write a ``.npy``, floats as little-endian float32, whole or not at all.

    Raises:
        UsageError: the folder does not exist.
    """
    if array.dtype.kind == "f":
        array = array.astype("<f4")
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        # np.save() gives no reason where a disk is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


# ---- files --------------------------------------------------------------------------------------


def _find_files(paths: Sequence[PathLike]) -> Iterator[Path]:
    if not paths:
        raise UsageError(f"no pictures: name files or folders ({' '.join(_SUFFIXES)})")
    for path in map(Path, paths):
        if path.is_dir():
            yield from _find_in_folder(path)
        elif path.suffix.lower() in _SUFFIXES:
            yield path
        else:
            raise UsageError(f"{path} is no picture by its name: expected {' '.join(_SUFFIXES)}")


def _find_in_folder(folder: Path) -> list[Path]:
    found = [
        Path(place, name)
        for place, _, names in os.walk(folder)  # links to folders are not followed
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise UsageError(f"the folder {folder} has no pictures ({' '.join(_SUFFIXES)})")
    return sorted(found)


# ---- arrays -------------------------------------------------------------------------------------


def _map_npy(path: Path) -> npt.NDArray[Any]:
    """A .npy mapped into memory: its shape is known before its data is read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as .npy: {error}") from error


def _read_npy_images(path: Path, spec: ImageSpec) -> Floats:
    return _to_images(path, _map_npy(path), spec)


def _to_images(path: Path, array: npt.NDArray[Any], spec: ImageSpec) -> Floats:
    images = _channels_first(path, array, spec)
    if not len(images):
        raise UsageError(f"{path} holds no pictures")
    if array.dtype == np.uint8:
        return from_uint8(images)
    if array.dtype.kind != "f":
        raise UsageError(f"{path} holds {array.dtype}, expected uint8, or float32 in [-1, 1]")
    floats = _finite_float32(path, images)
    if floats.size and floats.max() > 1.5 and (floats == np.rint(floats)).all():
        raise UsageError(
            f"{path} holds whole numbers up to {floats.max():g}: save 8-bit levels as uint8, or "
            "scale them to [-1, 1]"
        )
    return floats


def _channels_first(path: Path, array: npt.NDArray[Any], spec: ImageSpec) -> npt.NDArray[Any]:
    """[N, C, H, W] from any layout that fits the model; the first that fits is meant."""
    C, H, W = spec.shape
    shape, levels = array.shape, array.dtype == np.uint8
    if shape[1:] == (C, H, W) and array.ndim == 4:
        return array
    if shape == (C, H, W):
        return array[None]
    if C == 1 and shape[-2:] == (H, W) and array.ndim in (2, 3):
        return array.reshape(-1, 1, H, W)
    if levels and shape[-3:] == (H, W, C) and array.ndim in (3, 4):
        return np.moveaxis(array, -1, -3).reshape(-1, C, H, W)
    raise UsageError(
        f"{path} has the shape {_show(shape)}, expected [N, {C}, {H}, {W}] (float32 in [-1, 1] or "
        f"uint8) or [N, {H}, {W}, {C}] (uint8)"
    )


def _finite_float32(path: PathLike, array: npt.NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused below
        values: Floats = np.array(array, np.float32, order="C")
    if not np.isfinite(values).all():
        raise UsageError(f"{path} holds NaN or infinity (or numbers beyond float32)")
    return values


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# ---- .npz ---------------------------------------------------------------------------------------


def _read_npz(path: Path, spec: ImageSpec, limit: int) -> tuple[Floats, tuple[int, ...] | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            if "images.npy" not in members:
                raise UsageError(f"{path} has no array 'images'")
            with archive.open("images.npy") as file:
                images = _read_rows(file, limit)
            labels = None
            if "labels.npy" in members:
                with archive.open("labels.npy") as file:
                    labels = _read_rows(file, limit)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} cannot be read as .npz: {error}") from error
    pictures = _to_images(path, images, spec)
    if labels is None:
        return pictures, None
    if labels.shape != (len(pictures),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: labels are {labels.dtype} {_show(labels.shape)}, "
            f"expected integers [{len(pictures)}]"
        )
    return pictures, tuple(int(label) for label in labels)


def _read_rows(file: IO[bytes], limit: int) -> npt.NDArray[Any]:
    """The first rows of a .npy stream; the others are never unpacked."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    first = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = first[version[0] - 1](file)
    if fortran_order or dtype.hasobject or not shape:
        raise ValueError("objects, scalars and Fortran order are not read")
    rows = min(limit, shape[0])
    count = rows * prod(shape[1:])
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise EOFError(f"it ends after {len(data)} bytes of data")
    return np.frombuffer(data, dtype).reshape(rows, *shape[1:])
