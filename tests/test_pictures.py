"""Pictures, arrays and latents are read as documented, or refused by name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bundles import tiny_spec
from PIL import Image

from flowship.runtime.errors import UsageError
from flowship.runtime.images import from_uint8, to_uint8
from flowship.runtime.pictures import (
    read_images,
    read_labelled,
    read_latents,
    read_picture,
    write_array,
)

GREY = tiny_spec().image  # 4 x 4
RGB = tiny_spec(in_channels=3).image
RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)


def _save(path: Path, array: npt.NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def _read(path: Path, spec: Any = GREY) -> npt.NDArray[np.float32]:
    ((name, images),) = read_images([path], spec)
    assert name == str(path)
    return images


# ---- picture files ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".webp", ".jpg", ".jpeg"])
def test_picture_files(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (8, 4), (10, 200, 30))
    path = tmp_path / f"x{suffix}"
    image.save(path, **({"lossless": True} if suffix == ".webp" else {"quality": 100}))
    found = to_uint8(_read(path, RGB)).astype(int)
    assert found.shape == (1, 3, 4, 4)
    off = np.abs(found - np.array([10, 200, 30])[:, None, None]).max()
    assert off <= (3 if "jp" in suffix else 0)


def test_16_bit_png_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "x.png")
    assert (_read(tmp_path / "x.png") == 1).all()


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/9.png", "a/deep/1.png", "a/10.PNG", ".hidden.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
        if name.lower().endswith("png"):
            Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [name for name, _ in read_images([tmp_path, tmp_path / "b"], GREY)]
    relative = [Path(name).relative_to(tmp_path).as_posix() for name in found]
    assert relative == ["a/10.PNG", "a/9.png", "a/deep/1.png", "b/2.png", "b/2.png"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures: name files or folders"):
        list(read_images([], GREY))
    with pytest.raises(UsageError, match=r"the folder .* has no pictures"):
        list(read_images([tmp_path], GREY))
    for name in ("x.png", "x.npy", "x.txt", "x.npz", "x"):
        with pytest.raises(UsageError, match=f"{name} does not exist"):
            list(read_images([tmp_path / name], GREY))
    (tmp_path / "x.txt").touch()
    with pytest.raises(UsageError, match=r"x\.txt is no picture by its name: expected \.png"):
        list(read_images([tmp_path / "x.txt"], GREY))


def test_damaged_pictures(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(file, "PNG")
    data = file.getvalue()
    for content in (b"", b"hello", data[:20], data[: len(data) // 2], b"%!PS-Adobe-3.0 EPSF-3.0"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(UsageError, match=r"x\.png cannot be read as a picture"):
            read_picture(tmp_path / "x.png", RGB)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (3000, 3000)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8_000_000)  # of which pillow only warns
    assert (read_picture(tmp_path / "x.png", GREY) == -1).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(UsageError, match=r"x\.png cannot be read.*decompression bomb"):
        read_picture(tmp_path / "x.png", GREY)


# ---- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_float_arrays(tmp_path: Path, dtype: str) -> None:
    images = RNG.standard_normal((5, 3, 4, 4)).astype(dtype)
    found = _read(_save(tmp_path / "x.npy", images), RGB)
    assert found.dtype == np.dtype(np.float32)
    assert np.array_equal(found, images.astype(np.float32))
    assert np.array_equal(_read(_save(tmp_path / "x.npy", images[0]), RGB), found[:1])
    fortran = np.asfortranarray(images)
    again = _read(_save(tmp_path / "x.npy", fortran), RGB)
    assert again.flags.c_contiguous
    assert np.array_equal(again, found)


def test_8_bit_layouts(tmp_path: Path) -> None:
    path, expected = tmp_path / "x.npy", from_uint8(LEVELS)
    for layout in (LEVELS, LEVELS.transpose(0, 2, 3, 1)):
        assert np.array_equal(_read(_save(path, layout), RGB), expected)
        assert np.array_equal(_read(_save(path, layout[0]), RGB), expected[:1])
    grey = LEVELS[:, :1]
    for layout in (grey, grey[:, 0], grey.transpose(0, 2, 3, 1)):
        assert np.array_equal(_read(_save(path, layout), GREY), expected[:, :1])
    for layout in (grey[0], grey[0, 0], grey[0].transpose(1, 2, 0)):
        assert np.array_equal(_read(_save(path, layout), GREY), expected[:1, :1])


def test_decoded_pictures_need_not_be_clipped(tmp_path: Path) -> None:
    images = np.linspace(-30, 30, 32, dtype=np.float32).reshape(2, 1, 4, 4)
    assert np.array_equal(_read(_save(tmp_path / "x.npy", images)), images)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 3, 8, 4), "f4"), r"has the shape \[5, 3, 8, 4\], expected \[N, 3, 4, 4\]"),
        (np.zeros((5, 4, 4, 3), "f4"), r"has the shape \[5, 4, 4, 3\]"),  # uint8 only
        (np.zeros((2, 5, 3, 4, 4), "f4"), r"has the shape \[2, 5, 3, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"has the shape \[4, 4\]"),
        (np.float32(1), r"has the shape \[\]"),
        (np.zeros((5, 3, 4, 4), np.int64), "holds int64, expected uint8, or float32 in"),
        (np.zeros((5, 3, 4, 4), np.complex64), "holds complex64"),
        (np.full((1, 3, 4, 4), np.nan, "f4"), "holds NaN or infinity"),
        (np.full((1, 3, 4, 4), 1e300), "numbers beyond float32"),
        (np.full((1, 3, 4, 4), 255.0), "holds whole numbers up to 255: save 8-bit levels as uint8"),
        (np.zeros((0, 3, 4, 4), "f4"), "holds no pictures"),
    ],
)
def test_wrong_arrays(tmp_path: Path, array: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"x\.npy.* {message}"):
        _read(_save(tmp_path / "x.npy", array), RGB)


def test_hostile_npy(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    objects = path.read_bytes()
    huge = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3, 4, 4)}
    np.lib.format.write_array_header_1_0(huge, header)
    for content in (objects, huge.getvalue(), huge.getvalue()[:30], b"", b"hello", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"x\.npy cannot be read as \.npy"):
            _read(path, RGB)


# ---- latents ------------------------------------------------------------------------------------


def test_latents_round_trip(tmp_path: Path) -> None:
    spec = tiny_spec()
    latents = RNG.standard_normal((3, 4, 4))
    write_array(tmp_path / "z.npy", latents)
    found = read_latents(tmp_path / "z.npy", spec)
    assert np.array_equal(found, latents.astype(np.float32))
    assert np.load(tmp_path / "z.npy").dtype == np.dtype("<f4")
    write_array(tmp_path / "z.npy", found[:, ::-1])  # over the old one, not contiguous
    assert np.array_equal(read_latents(tmp_path / "z.npy", spec), found[:, ::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["z.npy"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), "f4"), r"has the shape \[4, 4\], expected \[N, 4, 4\]"),
        (np.zeros((1, 4, 5), "f4"), r"has the shape \[1, 4, 5\]"),
        (np.zeros((1, 4, 4), "i4"), "holds int32, expected float32"),
        (np.full((1, 4, 4), np.inf, "f4"), "holds NaN or infinity"),
        (np.zeros((0, 4, 4), "f4"), "holds no latents"),
    ],
)
def test_wrong_latents(tmp_path: Path, array: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"z\.npy {message}"):
        read_latents(_save(tmp_path / "z.npy", array), tiny_spec())


# ---- data sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_labelled_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", images=LEVELS[:, 0], labels=np.arange(5, dtype=np.uint8))
    images, labels = read_labelled(tmp_path / "x.npz", GREY, 3)
    assert np.array_equal(images, from_uint8(LEVELS[:3, :1]))
    assert labels == (0, 1, 2)
    assert len(read_labelled(tmp_path / "x.npz", GREY, 99)[0]) == 5
    save(tmp_path / "x.npz", images=LEVELS)
    assert read_labelled(tmp_path / "x.npz", RGB, 2)[1] is None


def test_labelled_folder_and_npy(tmp_path: Path) -> None:
    _save(tmp_path / "x.npy", LEVELS)
    Image.new("RGB", (4, 4)).save(tmp_path / "y.png")
    images, labels = read_labelled(tmp_path, RGB, 6)
    assert (images.shape, labels) == ((6, 3, 4, 4), None)
    assert read_labelled(tmp_path, RGB, 2)[0].shape == (2, 3, 4, 4)


def test_wrong_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"

    def fails(message: str) -> None:
        with pytest.raises(UsageError, match=rf"x\.npz.*{message}"):
            read_labelled(path, GREY, 4)

    np.savez(path, pictures=LEVELS)
    fails("has no array 'images'")
    np.savez(path, images=LEVELS)
    fails(r"has the shape \[4, 3, 4, 4\]")
    np.savez(path, images=LEVELS[:, 0], labels=np.zeros(3, int))
    fails(r"labels are int64 \[3\], expected integers \[4\]")
    np.savez(path, images=LEVELS[:, 0], labels=np.zeros(5))
    fails("labels are float64")
    np.savez(path, images=np.array([None] * 4))
    fails(r"cannot be read as \.npz: objects")
    path.write_bytes(b"hello")
    fails(r"cannot be read as \.npz")
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 4, 4)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    fails("ends after 0 bytes of data")
