"""A picture file's content as a model saw its training pictures, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .errors import UsageError
from .images import Floats, from_uint8
from .spec import ImageSpec

_MAX_SIDE = 1 << 16  # of a resized picture; a line of pixels would take all memory
MODES = {1: "L", 3: "RGB"}  # pillow's name for in_channels
_WORDS = {"L": "grey"}

_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What a grey level or a colour that a PNG calls transparent is worth in the pixels that pillow
# gives, by the file's own bits: pillow widens 2 and 4 bits, cuts 16 bits of colour to the high byte
# and leaves the level as the file has it.
_WIDENED = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class Prepared:
    """What was done to a picture that was not as the model's are.

    Attributes:
        size: width and height in pixels, upright.
        resized, cropped: whether the model's size came of that.
        converted: what else was changed, in words; None is nothing.
    """

    size: tuple[int, int]
    resized: bool
    cropped: bool
    converted: str | None

    def __bool__(self) -> bool:
        return self.resized or self.cropped or self.converted is not None


def prepare(image: Image.Image, spec: ImageSpec) -> Floats:
    """prepare_picture() without the account of it."""
    return prepare_picture(image, spec)[0]


def prepare_picture(image: Image.Image, spec: ImageSpec) -> tuple[Floats, Prepared]:
    """A picture of any size and kind to [C, H, W] in [-1, 1].

    As the reference's transform: the shorter side becomes img_size (bilinear with antialiasing),
    then the middle is cut out. Before that the picture is turned upright as its camera said, laid
    on white where it is transparent, reduced to 8 bits, and made grey or RGB.

    Raises:
        UsageError: the model's pictures are neither grey nor RGB, or the picture's numbers have no
            defined white.
    """
    if spec.in_channels not in MODES:
        raise UsageError(
            f"the model's pictures have {spec.in_channels} channels, which no picture file has: "
            f"pass a .npy of float32 [N, {', '.join(map(str, spec.shape))}]"
        )
    opened, done = image, list[str]()
    stored, clear = _stored(image), _transparent(image)
    image.load()  # damaged pixels are an error, unlike the metadata that is read next
    given, wanted = _colours(image.mode), MODES[spec.in_channels]
    if "16" in (stored or image.mode):
        done.append("16 bits to 8")
    image = _eight_bits(_upright(image, done), clear)
    image = _on_white(image, clear, done)
    if given != wanted:
        done.append(f"{_WORDS.get(given, given)} to {_WORDS.get(wanted, wanted)}")
    size, image = image.size, image.convert(wanted)
    image = _resize_and_crop(image, spec.img_size)
    resized, cropped = min(size) != spec.img_size, _longer(size, spec.img_size) != spec.img_size
    if (frames := _frames(opened)) > 1:  # counted last: it may fail on the way and move the file
        done.append(f"first of {frames} frames")
    found = Prepared(size, resized, cropped, ", ".join(done) or None)
    levels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    return from_uint8(np.ascontiguousarray(levels)), found


def _frames(image: Image.Image) -> int:
    """Pages or frames; the second picture in a camera's JPEG is only another size of the first."""
    try:
        return int(getattr(image, "n_frames", 1)) if image.format in ("PNG", "TIFF", "WEBP") else 1
    except Exception:  # a damaged one after the first, which is all that is used
        return 1


def _colours(mode: str) -> str:
    """L or RGB where a picture of that mode has just those; else the mode itself."""
    if mode in ("1", "L", "LA", "La") or mode.startswith(("I", "F")):
        return "L"
    return "RGB" if mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX") else mode


def _stored(image: Image.Image) -> str:
    """How a PNG holds its pixels, such as ``L;4``; pillow forgets it when it has read them."""
    tiles = getattr(image, "tile", None)
    return tiles[0][3] if tiles and isinstance(tiles[0][3], str) else ""


def _transparent(image: Image.Image) -> Any:
    """The level, colour or palette entries that are transparent, on the scale of the pixels."""
    clear, stored = image.info.get("transparency"), _stored(image)
    if isinstance(clear, int) and stored in _WIDENED:
        return clear * _WIDENED[stored]
    if isinstance(clear, tuple) and stored == "RGB;16B":
        return tuple(value >> 8 for value in clear)
    return clear


def _upright(image: Image.Image, done: list[str]) -> Image.Image:
    """Turned as its camera said; metadata that cannot be read says nothing."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    # Readers of metadata answer damage with SyntaxError, struct.error, ValueError, KeyError, ...
    except Exception:
        return image
    if turn is None:
        return image
    done.append("turned upright")
    return image.transpose(turn)


def _eight_bits(image: Image.Image, clear: Any) -> Image.Image:
    """16-bit grey to 8 bits, with alpha where a level is transparent; pillow would clip it."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise UsageError(
            f"a picture of mode {image.mode} has numbers without a defined white: "
            "save it with 8 or 16 bits, or as .npy"
        )
    levels = np.rint(values / 257).astype(np.uint8)  # 65535 / 255 = 257
    if not isinstance(clear, int):
        return Image.fromarray(levels)
    alpha = np.where(values == clear, 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(levels), Image.fromarray(alpha)])


def _on_white(image: Image.Image, clear: Any, done: list[str]) -> Image.Image:
    if image.mode == "La":  # premultiplied: pillow makes nothing else of it
        image = image.convert("LA")
    alpha = {"A", "a"}.intersection(image.getbands()) and image.mode != "LAB"
    if not alpha and clear is None:
        return image
    if not alpha:
        image = image.copy()
        image.info["transparency"] = clear
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image
    done.append("laid on white")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _longer(size: tuple[int, int], wanted: int) -> int:
    """The longer side where the shorter one becomes ``wanted``."""
    short, long = sorted(size)
    return long if short == wanted else max(wanted, wanted * long // short)


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    if min(image.size) != size:
        other = _longer(image.size, size)
        if other > _MAX_SIDE:
            raise UsageError(f"a picture of {image.width} x {image.height} pixels is too narrow")
        portrait = image.height >= image.width
        image = image.resize(
            (size, other) if portrait else (other, size), Image.Resampling.BILINEAR
        )
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
