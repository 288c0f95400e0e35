"""Patches, the 8-bit rule, distances between pictures, and how picture files become arrays."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from PIL import Image

from flowship.runtime.errors import NonFiniteError, UsageError
from flowship.runtime.images import (
    from_uint8,
    grid,
    grid_columns,
    max_abs_error,
    patchify,
    psnr_db,
    psnr_db_median,
    to_uint8,
    unpatchify,
)
from flowship.runtime.prepare import prepare
from flowship.runtime.spec import ImageSpec

RGB = ImageSpec(img_size=6, in_channels=3, patch_size=2, num_patches=9)
GREY = ImageSpec(img_size=4, in_channels=1, patch_size=2, num_patches=4)
LEVELS = np.arange(256, dtype=np.uint8)


def test_patch_order() -> None:
    """Features are channel, row, column; patches go row by row (torch.nn.functional.unfold)."""
    images = np.arange(2 * 3 * 6 * 6, dtype=np.float32).reshape(2, 3, 6, 6)
    patches = patchify(images, RGB)
    assert patches.shape == (2, 9, 12)
    for t in range(9):
        row, column = divmod(t, 3)
        expected = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert np.array_equal(patches[:, t], expected.reshape(2, 12))
    assert np.array_equal(unpatchify(patches, RGB), images)


@pytest.mark.parametrize("spec", [RGB, GREY, ImageSpec(8, 4, 8, 1), ImageSpec(3, 1, 1, 9)])
def test_patches_come_back(spec: ImageSpec) -> None:
    patches = np.random.default_rng(0).standard_normal(
        (3, spec.num_patches, spec.patch_dim), np.float32
    )
    images = unpatchify(patches, spec)
    assert images.shape == (3, *spec.shape)
    assert images.flags.c_contiguous
    assert np.array_equal(patchify(images, spec), patches)
    assert patchify(images[:0], spec).shape == (0, spec.num_patches, spec.patch_dim)


def test_8_bit_rule() -> None:
    x = np.array([-2, -1, -0.0, 1e-30, 1, 1.0001, 5], np.float32)
    assert to_uint8(x).tolist() == [0, 0, 128, 128, 255, 255, 255]
    assert to_uint8(x.reshape(1, 7)).shape == (1, 7)


def test_8_bit_rule_in_float32_step_by_step() -> None:
    """The rule as a port writes it: one rounding after each operation, halves to even."""
    x = np.random.default_rng(1).uniform(-1.1, 1.1, 200_000).astype(np.float32)
    clipped = np.maximum(np.float32(-1), np.minimum(np.float32(1), x)).astype(np.float64)
    product = ((clipped + 1).astype(np.float32).astype(np.float64) * 127.5).astype(np.float32)
    floor = np.floor(product.astype(np.float64))
    rest = product - floor
    up = (rest > 0.5) | ((rest == 0.5) & (floor % 2 == 1))
    assert np.array_equal(to_uint8(x), (floor + up).astype(np.uint8))


def test_halves_round_to_even() -> None:
    # 1/255 steps that are exact in float32: (x + 1) * 127.5 = 63.75 * 2^k
    x = np.array([-1 + 1 / 127.5, -1 + 1.5 / 127.5, 0.0], np.float32)
    assert to_uint8(x).tolist()[0] == 1
    assert to_uint8(np.float32(0)) == 128  # 127.5, to even


def test_8_bit_pictures_come_back() -> None:
    assert np.array_equal(to_uint8(from_uint8(LEVELS)), LEVELS)
    assert from_uint8(LEVELS)[[0, 255]].tolist() == [-1, 1]
    # The reference's transform: ToTensor divides by 255, Normalize subtracts and divides by 0.5.
    reference = (LEVELS.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(from_uint8(LEVELS), reference)
    assert from_uint8(LEVELS).dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_never_a_picture(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        to_uint8(np.array([0, bad], np.float32))


def test_psnr() -> None:
    a = np.zeros((2, 1, 4, 4), np.float32)
    b = a.copy()
    assert psnr_db(a, b) == inf
    b[1] += 0.02  # peak 2, so 40 dB
    assert psnr_db(a, b) == pytest.approx(40, abs=1e-4)
    b[0] += 0.2  # the worst picture counts
    assert psnr_db(a, b) == pytest.approx(20, abs=1e-4)
    assert psnr_db(a + 1, a + 7) == inf  # both are clipped to white
    b = np.stack([a[0], a[0] + 0.02, a[0] + 0.2])
    three = np.broadcast_to(a[0], b.shape)
    assert psnr_db(b, three) == pytest.approx(20, abs=1e-4)
    assert psnr_db_median(b, three) == pytest.approx(40, abs=1e-4)


def test_distances_are_never_fooled_by_nan() -> None:
    a = np.zeros((1, 4), np.float32)
    for bad in (np.nan, np.inf):
        b = np.full((1, 4), bad, np.float32)
        for pair in ((a, b), (b, a), (b, b)):
            assert max_abs_error(*pair) == inf
            assert psnr_db(*pair) == -inf


def test_max_abs_error() -> None:
    a = np.array([[1, 2], [3, 4]], np.float32)
    assert max_abs_error(a, a) == 0
    assert max_abs_error(a, a + np.array([[0, 0], [-7, 1]], np.float32)) == 7
    assert max_abs_error(a[:0], a[:0]) == 0
    with pytest.raises(UsageError, match=r"shapes \(2, 2\) and \(2, 1\)"):
        max_abs_error(a, a[:, :1])


def test_grid() -> None:
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 4), np.uint8)
    sheet = grid(pictures, columns=3, padding=1)
    assert sheet.shape == (3, 5, 14)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = sheet[:, 3 * row : 3 * row + 2, 5 * column : 5 * column + 4]
        assert (tile == i).all()
    assert (sheet[:, 2] == 255).all()
    assert (sheet[:, :, 4] == 255).all()
    assert (sheet[:, 3:, 10:] == 255).all()  # the empty place


def test_grid_shapes() -> None:
    pictures = np.zeros((16, 1, 2, 2), np.uint8)
    assert [grid_columns(n) for n in (1, 2, 4, 5, 16)] == [1, 2, 2, 3, 4]
    assert grid(pictures[:1]).shape == (1, 2, 2)
    assert grid(pictures, padding=0).shape == (1, 8, 8)
    assert grid(pictures[:2], columns=9).shape == (1, 2, 6)
    with pytest.raises(UsageError, match="a grid of 0 pictures"):
        grid(pictures[:0])
    with pytest.raises(UsageError, match="in 0 columns"):
        grid(pictures, columns=0)


# ---- prepare ------------------------------------------------------------------------------------


def _grey(values: object) -> Image.Image:
    return Image.fromarray(np.asarray(values, np.uint8))


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    found = prepare(Image.fromarray(levels), RGB)
    assert found.shape == (3, 6, 6)
    assert np.array_equal(found, from_uint8(levels.transpose(2, 0, 1)))


@pytest.mark.parametrize("size", [(12, 6), (6, 12), (60, 7), (7, 60), (1, 3), (640, 480)])
def test_shorter_side_then_middle(size: tuple[int, int]) -> None:
    """A grey ramp along the longer side stays a ramp around its middle."""
    width, height = size
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    levels = np.broadcast_to(ramp if width >= height else ramp[:, None], (height, width))
    found = prepare(_grey(levels), GREY)
    assert found.shape == (1, 4, 4)
    along = found[0].mean(0 if width >= height else 1)
    assert (np.diff(along) >= 0).all()
    assert abs(along.mean()) < 0.35


def test_resize_is_pillow_bilinear_with_antialiasing() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (21, 30, 3)).astype(np.uint8)
    image = Image.fromarray(levels)
    resized = image.resize((8, 6), Image.Resampling.BILINEAR)  # 6 * 30 // 21 = 8
    expected = np.asarray(resized.crop((1, 0, 7, 6)))
    assert np.array_equal(to_uint8(prepare(image, RGB)), expected.transpose(2, 0, 1))


def test_grey_from_colour_and_back() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert np.array_equal(to_uint8(prepare(red, GREY)), np.full((1, 4, 4), 76))  # ITU-R 601
    grey = prepare(_grey(np.full((6, 6), 100)), RGB)
    assert np.array_equal(to_uint8(grey), np.full((3, 6, 6), 100))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_modes(mode: str) -> None:
    black = Image.new("L", (4, 4), 0).convert("RGB").convert(mode if mode != "PA" else "P")
    image = black.convert("PA") if mode == "PA" else black
    assert (prepare(image, GREY) == -1).all()


def test_transparent_is_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    found = prepare(image, GREY)
    assert found[0, 0, 0] == -1
    assert (found.reshape(-1)[1:] == 1).all()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert (prepare(palette, GREY) == 1).all()


def test_16_bit_grey_keeps_its_white() -> None:
    levels = np.array([[0, 257, 32768, 65535]] * 4, np.uint16)
    for image in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32))):
        assert to_uint8(prepare(image, GREY))[0, 0].tolist() == [0, 1, 128, 255]


def test_pictures_without_a_white() -> None:
    for values in (np.zeros((4, 4), np.float32), np.full((4, 4), 1 << 20, np.int32)):
        with pytest.raises(UsageError, match="numbers without a defined white"):
            prepare(Image.fromarray(values), GREY)


def test_exif_orientation() -> None:
    image = _grey([[0, 255]] * 2)
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.info["exif"] = exif.tobytes()
    image.getexif()[0x0112] = 3
    small = ImageSpec(2, 1, 1, 4)
    assert to_uint8(prepare(image, small))[0].tolist() == [[255, 0]] * 2


def test_what_cannot_be_prepared() -> None:
    with pytest.raises(UsageError, match=r"4 channels, which no picture file has: pass a .npy"):
        prepare(Image.new("RGBA", (4, 4)), ImageSpec(4, 4, 2, 4))
    with pytest.raises(UsageError, match="100000 x 1 pixels is too narrow"):
        prepare(Image.new("L", (100_000, 1)), GREY)
