"""Picture files: found in folders, and read whatever state their metadata is in."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from PIL import Image

from .errors import UsageError
from .images import Floats
from .input_paths import check_readable
from .prepare import Prepared, prepare_picture
from .progress import say
from .recipe_files import PNG_SIGNATURE
from .spec import ImageSpec

PathLike = str | os.PathLike[str]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # pillow's decoders that a file may reach
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif")
PICTURE_SUFFIXES = (".png", *_JPEG, ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = (*PICTURE_SUFFIXES, ".npy")
# What people call pictures and no decoder above reads: left out of a folder with a note.
_OTHER_WORDS = (
    ".apng .arw .avif .avifs .cr2 .cr3 .dds .dib .dng .emf .eps .exr .gif .hdr .heic .heics .heif "
    ".hif .icns .ico .j2k .jp2 .jpf .jpx .jxl .jxr .mpo .nef .orf .pbm .pcx .pgm .pic .pict .pnm "
    ".ppm .psd .qoi .raf .raw .rw2 .svg .tga .wdp .wmf .xbm .xcf .xpm"
)
_OTHERS = frozenset(_OTHER_WORDS.split())

_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}  # the chunks that a PNG cannot do without
# What else of a damaged PNG is tried: all that changes how it looks, then less.
_KEPT = ({b"tRNS", b"eXIf"}, {b"tRNS"}, set[bytes]())


# ---- finding ------------------------------------------------------------------------------------


def find_files(paths: Sequence[PathLike]) -> list[Path]:
    """Files as named; folders are searched through, sorted, without hidden files.

    A note on stderr counts the pictures, by their name, that lie in folders and cannot be read.

    Raises:
        UsageError: no path, one that is not there, or nothing that can be read.
        OSError: a folder that this user may not read.
    """
    if not paths:
        raise UsageError(f"no pictures: name files or folders ({' '.join(SUFFIXES)})")
    others: Counter[str] = Counter()
    found = [file for path in map(Path, paths) for file in _find(path, others)]
    if others:
        say(f"note: {_left_out(others)}")
    return found


def _find(path: Path, others: Counter[str]) -> list[Path]:
    check_readable(path, folder=True)
    suffix = path.suffix.lower()
    if path.is_dir():
        return _find_in_folder(path, others)
    if suffix in SUFFIXES:
        return [path]
    if suffix in _OTHERS:
        raise UsageError(f"{path}: {suffix} is not read, save it as .png or .jpg")
    raise UsageError(f"{path} is no picture by its name: expected {' '.join(SUFFIXES)}")


def _find_in_folder(folder: Path, others: Counter[str]) -> list[Path]:
    found, mine = [], Counter[str]()
    # Links to folders are not followed; a folder that cannot be read is not silently empty.
    for place, _, names in os.walk(folder, onerror=_raise):
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES:
                found.append(path)
            elif suffix in _OTHERS:
                mine[suffix] += 1
    if not found:
        hint = f": {_left_out(mine)}" if mine else ""
        raise UsageError(f"the folder {folder} has no pictures ({' '.join(SUFFIXES)}){hint}")
    others.update(mine)
    return sorted(found)


def _left_out(others: Counter[str]) -> str:
    count = sum(others.values())
    kinds = ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others))
    verb = "was" if count == 1 else "were"
    return (
        f"{count} picture{'s' * (count != 1)} {verb} left out ({kinds}): save them as .png or .jpg"
    )


def _raise(error: OSError) -> NoReturn:
    raise error


# ---- reading ------------------------------------------------------------------------------------

Check = Callable[[Image.Image], object]


def decode_picture(
    source: PathLike | bytes, spec: ImageSpec, check: Check = lambda image: None
) -> tuple[Floats, Prepared]:
    """[C, H, W] in [-1, 1] and what was done to the picture.

    Metadata that cannot be read is none, as in browsers; pixels that are damaged are an error.

    Args:
        source: a path, or the content of a file.
        check: called with the opened picture before its pixels are read.

    Raises:
        UsageError: see prepare_picture().
        Exception: whatever pillow says of a damaged file.
    """
    try:
        return _decode(source, spec, check)
    except UsageError:
        raise
    except Exception:
        for data in _without_metadata(source):
            try:
                return _decode(data, spec, check)
            except Exception:  # the first error says what is wrong with the file as it is
                continue
        raise


def picture_size(path: PathLike) -> tuple[int, int] | None:
    """Width and height from a file's header, not upright; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.width, image.height
    except Exception:  # which reading it will say
        return None


def _decode(source: PathLike | bytes, spec: ImageSpec, check: Check) -> tuple[Floats, Prepared]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow's, about metadata and photos of 100 megapixels
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            check(image)
            return prepare_picture(image, spec)


def _without_metadata(source: PathLike | bytes) -> Iterator[bytes]:
    """A PNG with fewer and fewer of the chunks that it could do without."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data.startswith(PNG_SIGNATURE):
        for kept in _KEPT:
            yield PNG_SIGNATURE + b"".join(c for kind, c in _chunks(data) if kind in _PIXELS | kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole bytes of each chunk, the last one perhaps cut."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind, data, sum
        yield data[at + 4 : at + 8], data[at:end]
        at = end
