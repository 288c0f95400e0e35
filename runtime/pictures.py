"""Pictures, arrays of pictures and latents that a user names, read and checked."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .atomic import atomic_file
from .errors import FlowshipError, UsageError
from .images import Floats, from_uint8
from .input_paths import check_regular
from .picture_files import FORMATS, PathLike, decode_picture, find_files
from .prepare import Prepared
from .spec import FlowSpec, ImageSpec

if TYPE_CHECKING:
    import zipfile

MAX_LATENTS = 100_000  # of a .npz: as many as one command makes pictures
_CHUNK_VALUES = 1 << 22  # of an array in a file, looked through in parts


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
    for path in find_files(paths):
        if is_array(path):
            yield str(path), to_images(str(path), map_npy(path), spec)
        else:
            yield str(path), read_picture(path, spec)[None]


def is_array(path: PathLike) -> bool:
    """Whether a file is a ``.npy`` by its name."""
    return Path(path).suffix.lower() == ".npy"


def read_picture(path: PathLike, spec: ImageSpec) -> Floats:
    """One picture file, resized and cropped, as [C, H, W] in [-1, 1].

    Raises:
        UsageError: it cannot be read.
    """
    return read_prepared(path, spec)[0]


def read_prepared(path: PathLike, spec: ImageSpec) -> tuple[Floats, Prepared]:
    """The same with what was done to the picture."""
    check_regular(path)
    try:
        return decode_picture(path, spec)
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


def read_latents(path: PathLike, spec: FlowSpec, name: str = "noise") -> Floats:
    """Latents or noise from a ``.npy`` of float32 or float64 [N, T, D], or a ``.npz``'s ``name``.

    Raises:
        UsageError: another shape or type, not finite, or not a ``.npy``.
    """
    is_npz = Path(path).suffix.lower() == ".npz"
    shape = spec.latents[0].shape
    array = _read_latents(Path(path), name, shape) if is_npz else map_npy(Path(path))
    return to_latents(str(path), array, spec)


def to_latents(name: str, given: npt.ArrayLike, spec: FlowSpec) -> Floats:
    """Latents from floats [N, T, D] in a file or an array; ``name`` begins what is said of them.

    Raises:
        UsageError: another shape or type, or not finite.
    """
    array, (T, D) = _as_array(name, given), spec.latents[0].shape
    if array.dtype.kind != "f":
        raise UsageError(f"{name} holds {array.dtype}, expected float32")
    if array.ndim != 3 or array.shape[1:] != (T, D):
        raise UsageError(f"{name} has the shape {_show(array.shape)}, expected [N, {T}, {D}]")
    if not len(array):
        raise UsageError(f"{name} holds no latents")
    return _float32(_check_finite(name, array))


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


# ---- arrays -------------------------------------------------------------------------------------


def map_npy(path: Path) -> npt.NDArray[Any]:
    """A .npy mapped into memory: its shape is known before its data is read.

    Raises:
        UsageError: it is not there, or no .npy that numpy maps.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about files that Python 2 wrote
            return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as .npy: {error}") from error


def to_images(name: str, given: npt.ArrayLike, spec: ImageSpec) -> Floats:
    """[N, C, H, W] float32 from an array in a file or in memory: one rule for both.

    Raises:
        UsageError: see view_images().
    """
    return scale_images(view_images(name, given, spec))


def view_images(name: str, given: npt.ArrayLike, spec: ImageSpec) -> npt.NDArray[Any]:
    """The pictures in an array as [N, C, H, W], checked and not yet copied.

    Floats are in [-1, 1] (any finite value is taken), uint8 are 8-bit levels; see read_images()
    for the layouts. ``name`` begins what is said of them.

    Raises:
        UsageError: another shape or type, not finite, or whole numbers that look like levels.
    """
    array = _as_array(name, given)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UsageError(f"{name} holds {array.dtype}, expected uint8, or float32 in [-1, 1]")
    images = _channels_first(name, array, spec)
    if not len(images):
        raise UsageError(f"{name} holds no pictures")
    if array.dtype != np.uint8:
        _check_levels(name, _check_finite(name, images))
    return images


def count_images(name: str, array: npt.NDArray[Any], spec: ImageSpec) -> int:
    """Pictures in an array, by its shape alone."""
    return len(_channels_first(name, array, spec))


def scale_images(images: npt.NDArray[Any]) -> Floats:
    """What view_images() gave, or a part of it, as float32 in [-1, 1]."""
    if images.dtype == np.uint8:
        return np.ascontiguousarray(from_uint8(images))
    return _float32(images)


def _as_array(name: str, given: npt.ArrayLike) -> npt.NDArray[Any]:
    masked = sys.modules.get("numpy.ma")  # takes 8 ms; who has a masked array has it imported
    if masked and masked.is_masked(given):
        raise UsageError(f"{name} has masked values: fill them first")
    try:
        return np.asarray(given)
    # Ragged lists; tensors on a GPU or with gradients; whatever an object's __array__ raises.
    except Exception as error:
        raise UsageError(f"{name} cannot be read as numbers: {error}") from error


def _channels_first(name: str, array: npt.NDArray[Any], spec: ImageSpec) -> npt.NDArray[Any]:
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
        f"{name} has the shape {_show(shape)}, expected [N, {C}, {H}, {W}] (float32 in [-1, 1] or "
        f"uint8) or [N, {H}, {W}, {C}] (uint8)"
    )


def _parts(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Rows of an array that may be larger than memory."""
    rows = max(1, _CHUNK_VALUES // max(1, prod(array.shape[1:])))
    return (array[i : i + rows] for i in range(0, len(array), rows))


def _check_finite(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not all(np.isfinite(_float32(part)).all() for part in _parts(array)):
        raise UsageError(f"{name} holds NaN or infinity (or numbers beyond float32)")
    return array


def _check_levels(name: str, images: npt.NDArray[Any]) -> None:
    """Whole numbers beyond [-1, 1] are levels of 0 to 255 that somebody made floats."""
    if all((part == np.rint(part)).all() for part in _parts(images)):
        largest = max(float(part.max()) for part in _parts(images))
        if largest > 1.5:
            raise UsageError(
                f"{name} holds whole numbers up to {largest:g}: save 8-bit levels as uint8, or "
                "scale them to [-1, 1]"
            )


def _float32(array: npt.NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused
        return np.array(array, np.float32, order="C")


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# ---- .npz ---------------------------------------------------------------------------------------


def _read_npz(path: Path, spec: ImageSpec, limit: int) -> tuple[Floats, tuple[int, ...] | None]:
    with _open_npz(path) as archive:
        images = _read_array(path, archive, "images", limit)
        named = "labels.npy" in archive.namelist()
        labels = _read_array(path, archive, "labels", limit) if named else None
    pictures = to_images(str(path), images, spec)
    if labels is None:
        return pictures, None
    if labels.dtype.kind == "i" and (labels == -1).all():  # as generate writes pictures of no class
        return pictures, None
    if labels.shape != (len(pictures),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: labels are {labels.dtype} {_show(labels.shape)}, "
            f"expected integers [{len(pictures)}]"
        )
    return pictures, tuple(int(label) for label in labels)


def _read_latents(path: Path, name: str, row: tuple[int, ...]) -> npt.NDArray[Any]:
    with _open_npz(path) as archive:
        found = _read_array(path, archive, name, MAX_LATENTS + 1, row)
    if len(found) > MAX_LATENTS:
        raise UsageError(f"{path} holds more than {MAX_LATENTS:,} latents")
    return found


@contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    import zipfile  # takes 9 ms

    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (UsageError, MemoryError):
        raise
    # Archives and arrays answer damage with BadZipFile, zlib.error, SyntaxError, RuntimeError, ...
    except Exception as error:
        raise UsageError(f"{path} cannot be read as .npz: {error}") from error


def _read_array(
    path: Path, archive: zipfile.ZipFile, name: str, limit: int, row: tuple[int, ...] | None = None
) -> npt.NDArray[Any]:
    if f"{name}.npy" not in archive.namelist():
        raise UsageError(f"{path} has no array {name!r}")
    with archive.open(f"{name}.npy") as file:
        return _read_rows(file, limit, row)


def _read_rows(file: IO[bytes], limit: int, row: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """The first rows of a .npy stream, each of the shape ``row``; the others are never unpacked."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    first = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = first[version[0] - 1](file)
    if fortran_order or dtype.hasobject or not shape:
        raise ValueError("objects, scalars and Fortran order are not read")
    if row is not None and shape[1:] != row:
        raise ValueError(f"the shape is {_show(shape)}, expected [N, {_show(row)[1:]}")
    rows = min(limit, shape[0])
    count = rows * prod(shape[1:])
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise EOFError(f"it ends after {len(data)} bytes of data")
    return np.frombuffer(data, dtype).reshape(rows, *shape[1:])
