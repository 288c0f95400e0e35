"""Picture files as people have them: transparency, broken metadata, names, changes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bundles import tiny_spec
from PIL import Image

from flowship.runtime.errors import UsageError
from flowship.runtime.images import to_uint8
from flowship.runtime.picture_files import decode_picture, find_files
from flowship.runtime.pictures import read_labelled, read_picture, read_prepared
from flowship.runtime.prepare import Prepared, prepare, prepare_picture

GREY = tiny_spec().image  # 4 x 4
RGB = tiny_spec(in_channels=3).image


def _chunk(kind: bytes, data: bytes, *, right: bool = True) -> bytes:
    check = zlib.crc32(kind + data) ^ (not right)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _png(depth: int, colour: int, row: bytes, *chunks: bytes, trailing: bytes = b"") -> bytes:
    """4 x 4 pixels, four times the same row."""
    header = struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 4)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", pixels), trailing]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + _chunk(b"IEND", b"")


def _row(data: bytes, spec: Any = GREY) -> list[Any]:
    return list(to_uint8(decode_picture(data, spec)[0])[:, 0].tolist())


# ---- transparency -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "row", "levels"),
    [
        (1, b"\x50", [0, 255, 0, 255]),
        (2, b"\x1b", [0, 85, 170, 255]),
        (4, b"\x05\xaf", [0, 85, 170, 255]),
        (8, b"\x00\x55\xaa\xff", [0, 85, 170, 255]),
        (16, b"\x00\x00\x55\x55\xaa\xaa\xff\xff", [0, 85, 170, 255]),
    ],
)
def test_a_transparent_grey_level_is_white_at_any_depth(
    depth: int, row: bytes, levels: list[int]
) -> None:
    most = (1 << depth) - 1
    for clear in sorted({level * most // 255 for level in levels}):
        name = _chunk(b"tRNS", struct.pack(">H", clear))
        expected = [255 if level * most // 255 == clear else level for level in levels]
        assert _row(_png(depth, 0, row, name)) == [expected], clear
        assert _row(_png(depth, 0, row, name), RGB) == [expected] * 3


def test_the_16_bit_neighbour_of_a_transparent_level_stays() -> None:
    row = struct.pack(">4H", 0, 1, 128, 65535)
    assert _row(_png(16, 0, row, _chunk(b"tRNS", b"\0\0"))) == [[255, 0, 0, 255]]
    assert _row(_png(16, 0, row, _chunk(b"tRNS", b"\0\1"))) == [[0, 255, 0, 255]]


@pytest.mark.parametrize(("depth", "form"), [(8, "B"), (16, "H")])
def test_a_transparent_colour(depth: int, form: str) -> None:
    most = (1 << depth) - 1
    low = 0x1234 if depth == 16 else 0x12
    row = struct.pack(f">12{form}", 0, 0, 0, low, 0, 0, most, 0, 0, 0, most, most)
    clear = _chunk(b"tRNS", struct.pack(">3H", low, 0, 0))
    assert _row(_png(depth, 2, row, clear), RGB)[0] == [0, 255, 255, 0]
    clear = _chunk(b"tRNS", struct.pack(">3H", 0, most, most))
    assert _row(_png(depth, 2, row, clear), RGB) == [[0, 18, 255, 255]] + [[0, 0, 0, 255]] * 2


def test_alpha_of_every_kind() -> None:
    grey = b"\x00\xff\x00\x00\xff\xff\x80\x80"  # level, alpha
    on_white = [0, 255, 255, 191]
    assert _row(_png(8, 4, grey)) == [on_white]
    wide = b"".join(bytes([v, v]) for v in grey)
    assert _row(_png(16, 4, wide)) == [on_white]
    colours = b"".join(grey[i : i + 1] * 3 + grey[i + 1 : i + 2] for i in range(0, 8, 2))
    assert _row(_png(8, 6, colours), RGB) == [on_white] * 3
    assert _row(_png(16, 6, b"".join(bytes([v, v]) for v in colours)), RGB) == [on_white] * 3
    palette = _chunk(b"PLTE", bytes([0] * 9 + [128] * 3)), _chunk(b"tRNS", b"\xff\0\x80\x80")
    assert _row(_png(8, 3, bytes(range(4)), *palette), RGB) == [[0, 255, 127, 191]] * 3
    assert _row(_png(2, 3, b"\x1b", *palette), RGB) == [[0, 255, 127, 191]] * 3
    premultiplied = Image.new("RGBA", (4, 4), (0, 0, 0, 128)).convert("RGBa")
    assert to_uint8(prepare(premultiplied, RGB))[0, 0, 0] == 127
    la = Image.new("LA", (4, 4), (0, 128))
    assert to_uint8(prepare(la.convert("La"), GREY))[0, 0, 0] == 127


# ---- metadata -----------------------------------------------------------------------------------

ROW = b"\x00\x55\xaa\xff"


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"eXIf", b"no TIFF"),
        _chunk(b"eXIf", b""),
        _chunk(b"eXIf", b"MM\0*\0\0\xff\xff"),
        _chunk(b"iCCP", b"x\0\0no zlib"),
        _chunk(b"iCCP", b"x"),
        _chunk(b"tEXt", b"a\0b", right=False),
        _chunk(b"zTXt", b"a\0\0no zlib"),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * (3 << 20))),  # more than pillow unpacks
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<broken"),
        _chunk(b"pHYs", b"1"),
        _chunk(b"gAMA", b""),
        _chunk(b"cHRM", b"123"),
        _chunk(b"tRNS", b"\0"),
        _chunk(b"acTL", b"\0"),
    ],
    ids=lambda chunk: chunk[4:8].decode(),
)
def test_metadata_that_cannot_be_read_is_none(chunk: bytes) -> None:
    assert _row(_png(8, 0, ROW, chunk)) == [[0, 85, 170, 255]]
    if chunk[4:8] not in (b"tRNS", b"acTL"):  # these say how pixels are meant, before them
        assert _row(_png(8, 0, ROW, trailing=chunk)) == [[0, 85, 170, 255]]


def test_what_is_whole_still_counts_beside_what_is_not() -> None:
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored
    turned = _chunk(b"eXIf", exif.tobytes()[6:])
    clear = _chunk(b"tRNS", struct.pack(">H", 0x55))
    broken = _chunk(b"iCCP", b"x", right=False)
    assert _row(_png(8, 0, ROW, broken, clear, turned)) == [[255, 170, 255, 0]]


@pytest.mark.parametrize("kind", ["exif", "icc_profile", "xmp"])
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
def test_broken_metadata_of_other_formats(form: str, kind: str) -> None:
    picture = Image.new("RGB", (4, 4), (10, 200, 30))
    file = io.BytesIO()
    broken = b"Exif\0\0broken" if kind == "exif" else b"\xff\xfebroken"
    if form == "TIFF":
        picture.save(file, form, **{kind: broken} if kind == "icc_profile" else {})
    else:
        picture.save(file, form, quality=100, **{kind: broken})
    found = to_uint8(decode_picture(file.getvalue(), RGB)[0])
    assert np.abs(found[:, 0, 0].astype(int) - (10, 200, 30)).max() <= 3


def test_damaged_pixels_are_refused_whatever_the_metadata() -> None:
    good = _png(8, 0, ROW, _chunk(b"eXIf", b"no TIFF"))
    for cut in (good[: good.index(b"IDAT") + 6], good.replace(b"IDAT", b"IDAt")):
        with pytest.raises((OSError, SyntaxError, ValueError)):
            decode_picture(cut, GREY)
    header = bytearray(good)
    header[20] ^= 1  # the width, against its checksum
    with pytest.raises((OSError, SyntaxError)):
        decode_picture(bytes(header), GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int) -> None:
    """As pillow's own exif_transpose(), which stumbles over metadata that is damaged."""
    from PIL import ImageOps

    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    found, done = prepare_picture(image, GREY)
    assert np.array_equal(to_uint8(found)[0], expected)
    assert done.converted == ("turned upright" if orientation > 1 else None)


# ---- what was done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "size", "spec", "expected"),
    [
        ("L", (4, 4), GREY, Prepared((4, 4), False, False, None)),
        ("RGB", (4, 4), RGB, Prepared((4, 4), False, False, None)),
        ("P", (4, 4), RGB, Prepared((4, 4), False, False, None)),
        ("L", (8, 8), GREY, Prepared((8, 8), True, False, None)),
        ("L", (5, 4), GREY, Prepared((5, 4), False, True, None)),
        ("L", (9, 8), GREY, Prepared((9, 8), True, False, None)),  # 4 * 9 // 8 = 4
        ("L", (8, 12), GREY, Prepared((8, 12), True, True, None)),
        ("RGB", (4, 4), GREY, Prepared((4, 4), False, False, "RGB to grey")),
        ("L", (4, 4), RGB, Prepared((4, 4), False, False, "grey to RGB")),
        ("CMYK", (4, 4), RGB, Prepared((4, 4), False, False, "CMYK to RGB")),
        ("I;16", (4, 4), GREY, Prepared((4, 4), False, False, "16 bits to 8")),
        ("RGBA", (4, 4), RGB, Prepared((4, 4), False, False, "laid on white")),
        ("LA", (4, 4), RGB, Prepared((4, 4), False, False, "laid on white, grey to RGB")),
    ],
)
def test_what_was_done_is_said(
    mode: str, size: tuple[int, int], spec: Any, expected: Prepared
) -> None:
    _, found = prepare_picture(Image.new(mode, size), spec)
    assert found == expected
    assert bool(found) == (expected != Prepared(size, False, False, None))


def test_opaque_alpha_and_16_bit_colour_and_frames(tmp_path: Path) -> None:
    assert not prepare_picture(Image.new("RGBA", (4, 4), "white"), RGB)[1]
    assert decode_picture(_png(16, 2, b"\0\1" * 12), RGB)[1].converted == "16 bits to 8"
    pages = [Image.new("L", (4, 4), level) for level in (0, 255)]
    for name in ("x.tif", "x.webp", "x.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        found, done = read_prepared(tmp_path / name, RGB)
        assert "first of 2 frames" in (done.converted or "") and found.max() < -0.9


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JIF", ".jpeg"])
def test_jpeg_by_any_name(tmp_path: Path, suffix: str) -> None:
    Image.new("L", (4, 4), 255).save(tmp_path / f"x{suffix}", "JPEG")
    assert find_files([tmp_path]) == [tmp_path / f"x{suffix}"]
    assert (read_picture(tmp_path / f"x{suffix}", GREY) > 0.9).all()


def test_pictures_that_are_left_out_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.HEIC", "d.gif", "e.avif", "deep.avif/f.AVIF", ".hidden.gif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"has no pictures .*: 4 pictures were left out"):
        find_files([tmp_path])
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    read_labelled(tmp_path, GREY, 3)
    assert capsys.readouterr().err == (
        "note: 4 pictures were left out (2 .avif, 1 .gif, 1 .heic): save them as .png or .jpg\n"
    )
    (tmp_path / "other").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "other" / "a.jpg")
    find_files([tmp_path / "other"])
    assert capsys.readouterr().err == ""


def test_names_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.heic").touch()
    with pytest.raises(UsageError, match=r"x\.heic: \.heic is not read, save it as"):
        find_files([tmp_path / "x.heic"])
    with pytest.raises(UsageError, match=r"y\.heic does not exist"):
        find_files([tmp_path / "y.heic"])


def test_folders_that_cannot_be_listed_are_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")

    def walk(folder: Path, onerror: Any) -> Any:
        yield str(folder), ["locked"], ["a.jpg"]
        onerror(PermissionError(13, "Permission denied", str(folder / "locked")))

    monkeypatch.setattr("flowship.runtime.picture_files.os.walk", walk)
    with pytest.raises(PermissionError, match="locked"):
        find_files([tmp_path])


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"x\.png is not a regular file"):
        read_picture(tmp_path / "x.png", GREY)


def _levels(array: npt.NDArray[np.float32]) -> list[int]:
    return sorted(set(to_uint8(array).reshape(-1).tolist()))


def test_modes_that_pillow_has_for_16_bits() -> None:
    for mode in ("I", "I;16", "I;16L", "I;16B"):
        image = Image.new(mode, (4, 4), 257 * 7)
        assert _levels(prepare(image, GREY)) == [7]
        image.info["transparency"] = 257 * 7
        assert _levels(prepare(image, GREY)) == [255]
