"""Arrays and pictures in JSON: base64 of little-endian float32 and of 8-bit pixels."""

from __future__ import annotations

import base64
import binascii
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ...runtime.errors import FlowshipError, UsageError
from ...runtime.images import Bytes, Floats
from ...runtime.picture_files import FORMATS, decode_picture
from ...runtime.prepare import prepare
from ...runtime.spec import ImageSpec
from .messages import Picture, Pixels

MAX_PIXELS = 1 << 25  # of a picture that is read: 32 megapixels, about 100 MB as RGB
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_KINDS = ", ".join(FORMATS)


def encode_floats(array: npt.NDArray[np.float32]) -> str:
    """base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def decode_floats(text: str, shape: tuple[int, ...], what: str) -> Floats:
    """[N, *shape] from base64 of float32.

    Raises:
        UsageError: not base64, not whole arrays of the shape, or not finite.
    """
    data = _decode(text, what)
    size = 4 * int(np.prod(shape))
    if not data or len(data) % size:
        wanted = ", ".join(map(str, shape))
        raise UsageError(
            f"{what} has {len(data)} bytes, expected a multiple of {size} (float32 [{wanted}])"
        )
    array = np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, *shape)
    if not np.isfinite(array).all():
        raise UsageError(f"{what} holds NaN or infinity")
    return array


def encode_pixels(picture: Bytes) -> Pixels:
    """[C, H, W] to pixels with the channels together."""
    C, H, W = picture.shape
    data = np.ascontiguousarray(picture.transpose(1, 2, 0)).tobytes()
    return Pixels(W, H, C, base64.b64encode(data).decode())


def read_picture(picture: Picture, spec: ImageSpec) -> Floats:
    """[C, H, W] in [-1, 1]: the picture as the model saw its training pictures.

    Raises:
        UsageError: it cannot be read, or is larger than MAX_PIXELS.
    """
    if picture.data is not None:
        return prepare(_from_pixels(picture, picture.data), spec)
    assert picture.file is not None
    data = _decode(picture.file, "image.file")
    try:
        # The size is checked before any pixel is unpacked, so pillow's own limit has no say.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return decode_picture(data, spec, lambda image: _check_size(*image.size))[0]
    except FlowshipError:
        raise
    except UnidentifiedImageError as error:  # whose own words name an object in memory
        raise UsageError(f"image.file cannot be read as a picture: expected {_KINDS}") from error
    # Decoders answer damaged files with OSError, SyntaxError, struct.error, MemoryError, ...
    except Exception as error:
        raise UsageError(f"image.file cannot be read as a picture ({_KINDS}): {error}") from error


def _from_pixels(picture: Picture, text: str) -> Image.Image:
    if picture.channels not in _MODES:
        raise UsageError(f"image.channels is {picture.channels}, expected 1, 3 or 4")
    if picture.width < 1 or picture.height < 1:
        raise UsageError(f"image is {picture.width} x {picture.height} pixels")
    _check_size(picture.width, picture.height)
    data = _decode(text, "image.data")
    expected = picture.width * picture.height * picture.channels
    if len(data) != expected:
        raise UsageError(f"image.data has {len(data)} bytes, expected {expected}")
    return Image.frombytes(_MODES[picture.channels], (picture.width, picture.height), data)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"image has {width} x {height} pixels, at most {MAX_PIXELS:,} are read: make it smaller"
        )


def _decode(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{what} is not base64: {error}") from error
