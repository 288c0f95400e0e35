"""A picture file's content as a model saw its training pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from .errors import UsageError
from .images import Floats, from_uint8
from .spec import ImageSpec

_MAX_SIDE = 1 << 16  # of a resized picture; a line of pixels would take all memory
MODES = {1: "L", 3: "RGB"}  # pillow's name for in_channels


def prepare(image: Image.Image, spec: ImageSpec) -> Floats:
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
    image = _eight_bits(ImageOps.exif_transpose(image))
    image = _on_white(image).convert(MODES[spec.in_channels])
    levels = np.asarray(_resize_and_crop(image, spec.img_size))
    return from_uint8(np.ascontiguousarray(np.atleast_3d(levels).transpose(2, 0, 1)))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; pillow would clip it."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise UsageError(
            f"a picture of mode {image.mode} has numbers without a defined white: "
            "save it with 8 or 16 bits, or as .npy"
        )
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))  # 65535 / 255 = 257


def _on_white(image: Image.Image) -> Image.Image:
    if "transparency" not in image.info and not {"A", "a"}.intersection(image.getbands()):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    short, long = sorted(image.size)
    if short != size:
        other = max(size, size * long // short)
        if other > _MAX_SIDE:
            raise UsageError(f"a picture of {image.width} x {image.height} pixels is too narrow")
        portrait = image.height >= image.width
        image = image.resize(
            (size, other) if portrait else (other, size), Image.Resampling.BILINEAR
        )
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
