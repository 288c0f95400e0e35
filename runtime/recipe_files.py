"""The recipe in PNG, JPEG, WebP and .npz files, also those of strangers: read, and as EXIF data.

Files are walked part by part and no pixel is decoded, so that nothing in them can grow beyond
MAX_TEXT and the size of a picture does not matter.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from .errors import UsageError
from .input_paths import check_regular
from .recipe import Recipe

MAX_TEXT = 4 << 20  # bytes of a recipe that is read
KEY = "flowship"  # of the text chunk in a PNG
COMMENT = b"ASCII\0\0\0flowship recipe "  # what UserComment begins with
EXIF_HEADER = b"Exif\0\0"
EXIF_FOLDER, USER_COMMENT, IMAGE_DESCRIPTION, SOFTWARE = 0x8769, 0x9286, 0x010E, 0x0131

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_COMMENT = MAX_TEXT + (1 << 16)  # bytes of EXIF that are read: it has a little more in it


class _BadFile(Exception):
    """The file is damaged, or what it holds is too large."""


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a PNG, JPEG, WebP or .npz that flowship wrote; the pixels are not decoded.

    Raises:
        UsageError: another kind of file, without a recipe, or with one that is damaged or too new.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            kind, text = _find_recipe(file)
    except _BadFile as error:
        raise UsageError(f"{path} cannot be read as a {error.args[1]}: {error.args[0]}") from error
    except OSError as error:
        problem = error.strerror or error
        raise UsageError(f"{path} cannot be read as a PNG, JPEG or WebP: {problem}") from error
    if text is None:
        raise UsageError(
            f"{path} has no flowship recipe: flowship did not write it, or a program that changed "
            f"the {'file' if kind == '.npz' else 'picture'} left the text out"
        )
    if len(text) > MAX_TEXT:
        raise UsageError(f"{path}: its recipe has {len(text):,} characters, at most {MAX_TEXT:,}")
    try:
        return Recipe.loads(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def exif_with(recipe: Recipe) -> bytes:
    """EXIF data that holds a recipe, for JPEG and WebP files."""
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = recipe.description
    exif[SOFTWARE] = f"flowship {recipe.flowship_version}"
    exif[EXIF_FOLDER] = {USER_COMMENT: COMMENT + recipe.dumps().encode("ascii")}
    return exif.tobytes()


def _find_recipe(file: BinaryIO) -> tuple[str, str | None]:
    """What kind of file it is, and the recipe's text in it (None: there is none).

    Raises:
        _BadFile: the message says what is wrong; ``args[1]`` is the kind of file.
    """
    start = file.read(16)
    for kind, matches, find in _KINDS:
        if matches(start):
            file.seek(0)
            try:
                return kind, find(file)
            except _BadFile as error:
                raise _BadFile(str(error), kind) from error
            except OSError:
                raise
            # Parsers of EXIF, zip and .npy answer damage with struct.error, SyntaxError, ...
            except Exception as error:
                raise _BadFile(f"it is damaged ({error})", kind) from error
    raise _BadFile("it is another kind of file", "PNG, JPEG, WebP or .npz")


# ---- PNG ----------------------------------------------------------------------------------------


def _in_png(file: BinaryIO) -> str | None:
    """Before or behind the pixels, in any of PNG's three kinds of text, or in its EXIF."""
    file.seek(len(PNG_SIGNATURE))
    exif = None
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            name = file.read(min(length, len(KEY) + 1))
            if name == KEY.encode() + b"\0":
                body = _read(file, length - len(name), MAX_TEXT + 1024)
                _check_sum(file, kind + name + body)
                return _text_of(kind, body)
            _skip(file, length - len(name) + 4)
        elif kind == b"eXIf" and exif is None:
            exif = _read(file, length, _MAX_COMMENT)
            _skip(file, 4)
        else:
            _skip(file, length + 4)
    else:
        raise _BadFile("it is cut off")
    return _in_exif(exif) if exif else None


def _check_sum(file: BinaryIO, chunk: bytes) -> None:
    if file.read(4) != struct.pack(">I", zlib.crc32(chunk)):
        raise _BadFile("the checksum of its recipe is wrong")


def _text_of(kind: bytes, body: bytes) -> str:
    """The text of a chunk behind its keyword."""
    if kind == b"tEXt":
        return body.decode("latin-1")
    if kind == b"zTXt":
        return _unpack(body[1:]).decode("latin-1")
    packed, rest = body[0], body[2:]
    text = rest.split(b"\0", 2)[2]  # behind the language and the translated keyword
    return (_unpack(text) if packed else text).decode("utf-8")


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise _BadFile(f"its recipe unpacks to more than {MAX_TEXT:,} characters")
    return text


# ---- JPEG and WebP ------------------------------------------------------------------------------


def _in_jpeg(file: BinaryIO) -> str | None:
    """In the EXIF segments before the pixels."""
    file.seek(2)
    while True:
        mark = file.read(2)
        while mark == b"\xff\xff":  # padding
            mark = mark[1:] + file.read(1)
        if len(mark) < 2 or mark[0] != 0xFF:
            raise _BadFile("it is cut off" if len(mark) < 2 else "it is damaged")
        if mark[1] in (0xD9, 0xDA):  # its end, or its pixels
            return None
        if mark[1] == 0x01 or 0xD0 <= mark[1] <= 0xD8:
            continue  # without a body
        length = int.from_bytes(_read(file, 2, 2), "big") - 2
        if length < 0:
            raise _BadFile("it is damaged")
        if mark[1] != 0xE1:
            _skip(file, length)
            continue
        body = _read(file, length, 1 << 16)
        if body.startswith(EXIF_HEADER) and (text := _in_exif(body)) is not None:
            return text


def _in_webp(file: BinaryIO) -> str | None:
    """In the EXIF chunk, wherever it stands."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return _in_exif(_read(file, length, _MAX_COMMENT))
        _skip(file, length + length % 2)
    return None


def _in_exif(data: bytes) -> str | None:
    exif = Image.Exif()
    exif.load(data if data.startswith(EXIF_HEADER) else EXIF_HEADER + data)
    comment = exif.get_ifd(EXIF_FOLDER).get(USER_COMMENT)
    if not isinstance(comment, bytes) or not comment.startswith(COMMENT):
        return None
    return comment[len(COMMENT) :].rstrip(b"\0").decode("ascii")


# ---- .npz ---------------------------------------------------------------------------------------


def _in_npz(file: BinaryIO) -> str | None:
    """In the array ``recipe``."""
    import zipfile  # takes 9 ms

    with zipfile.ZipFile(file) as archive:
        if "recipe.npy" not in archive.namelist():
            return None
        with archive.open("recipe.npy") as member:
            data = member.read(4 * MAX_TEXT + 1025)  # four bytes a character
    if len(data) > 4 * MAX_TEXT + 1024:
        raise _BadFile(f"its recipe has more than {MAX_TEXT:,} characters")
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return str(array) if array.dtype.kind == "U" and array.ndim == 0 else None


# ---- parts --------------------------------------------------------------------------------------


def _read(file: BinaryIO, length: int, limit: int) -> bytes:
    if length > limit:
        raise _BadFile(f"its recipe has {length:,} characters, at most {MAX_TEXT:,} are read")
    data = file.read(length)
    if len(data) < length:
        raise _BadFile("it is cut off")
    return data


def _skip(file: BinaryIO, length: int) -> None:
    file.seek(length, io.SEEK_CUR)


Matcher = Callable[[bytes], bool]
_KINDS: tuple[tuple[str, Matcher, Callable[[BinaryIO], str | None]], ...] = (
    ("PNG", lambda start: start.startswith(PNG_SIGNATURE), _in_png),
    ("JPEG", lambda start: start.startswith(b"\xff\xd8"), _in_jpeg),
    ("WebP", lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _in_webp),
    (".npz", lambda start: start.startswith(b"PK\3\4"), _in_npz),
)
