"""Recipes in files that other programs changed, in JPEG and WebP, and in files of strangers."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image
from recipes import recipe

from flowship.runtime.errors import UsageError
from flowship.runtime.picture_formats import encode_picture, has_room
from flowship.runtime.png import encode_png
from flowship.runtime.recipe import Between, Recipe
from flowship.runtime.recipe_files import read_recipe

RECIPE = recipe()
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 6)).astype(np.uint8)
PLAIN = encode_png(PICTURE)
TEXT = RECIPE.dumps().encode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _with(*chunks: bytes, late: bool = True) -> bytes:
    """The picture with more chunks, in front of its pixels or behind them."""
    at = PLAIN.index(b"IEND" if late else b"IDAT") - 4
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


def _read(path: Path, data: bytes) -> Recipe:
    path.write_bytes(data)
    return read_recipe(path)


# ---- PNG ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"tEXt", b"flowship\0" + TEXT),
        _chunk(b"zTXt", b"flowship\0\0" + zlib.compress(TEXT)),
        _chunk(b"iTXt", b"flowship\0\0\0\0\0" + TEXT),
        _chunk(b"iTXt", b"flowship\0\1\0en\0Rezept\0" + zlib.compress(TEXT)),
    ],
    ids=["tEXt", "zTXt", "iTXt", "packed iTXt"],
)
def test_text_before_and_behind_the_pixels(tmp_path: Path, chunk: bytes, late: bool) -> None:
    others = _chunk(b"tEXt", b"flowshippy\0x"), _chunk(b"tEXt", b"date:create\0now")
    assert _read(tmp_path / "x.png", _with(*others, chunk, late=late)) == RECIPE


def test_the_exif_of_a_jpeg_that_became_a_png(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(encode_picture("JPEG", PICTURE, RECIPE))) as image:
        image.save(tmp_path / "x.png", exif=image.info["exif"])
    assert read_recipe(tmp_path / "x.png") == RECIPE


def test_the_size_of_a_picture_does_not_matter(tmp_path: Path) -> None:
    """A sheet of thousands has more pixels than pillow opens."""
    header = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)
    data = PLAIN[:8] + _chunk(b"IHDR", header) + _chunk(b"tEXt", b"flowship\0" + TEXT)
    assert _read(tmp_path / "x.png", data) == RECIPE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_with(), "has no flowship recipe"),
        (_with()[:-6], "cannot be read as a PNG: it is cut off"),
        (_with(_chunk(b"tEXt", b"flowship\0" + TEXT))[:-50], "has no|is cut off"),
        (_with(_chunk(b"tEXt", b"flowship\0" + TEXT)[:-1] + b"\0"), "checksum of its recipe is wr"),
        (_with(_chunk(b"zTXt", b"flowship\0\0" + TEXT)), "it is damaged"),
        (_with(_chunk(b"iTXt", b"flowship\0")), "it is damaged"),
        (_with(_chunk(b"iTXt", b"flowship\0\0\0\0\0\xff")), "it is damaged"),
        (_with(_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")), "has no flowship recipe|is damaged"),
        (
            _with(_chunk(b"zTXt", b"flowship\0\0" + zlib.compress(bytes(50_000_000)))),
            "its recipe unpacks to more than 4,194,304 characters",
        ),
        (PLAIN[:8] + struct.pack(">I4s", 0xFFFFFFFF, b"tEXt") + b"flowship\0x", "4,294,967,286 ch"),
        (b"GIF89a" + bytes(30), "cannot be read as a PNG, JPEG, WebP or .npz"),
        (b"", "cannot be read as a PNG, JPEG, WebP or .npz"),
    ],
)
def test_files_of_strangers(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"x\.png.*({message})"):
        _read(tmp_path / "x.png", data)


# ---- JPEG, WebP and .npz ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_jpeg_and_webp(tmp_path: Path, kind: str) -> None:
    named = replace(RECIPE, bundle="K\u00e4tzchen")
    assert _read(tmp_path / "x", encode_picture(kind, PICTURE, named)) == named
    assert encode_picture(kind, PICTURE, named) == encode_picture(kind, PICTURE, named)
    grey = encode_picture(kind, PICTURE[:, :1].repeat(4, 0), replace(RECIPE, seeds=(1, 2, 3, 4),
                          labels=(None,) * 4), columns=4)  # fmt: skip
    assert _read(tmp_path / "x", grey).columns == 4
    with Image.open(io.BytesIO(grey)) as image:
        assert image.size == (30, 4)
    with pytest.raises(UsageError, match="has no flowship recipe"):
        _read(tmp_path / "x", encode_picture(kind, PICTURE))
    for end in (30, 60, 200):
        with pytest.raises(UsageError, match=r"x (cannot be read as a (JPEG|WebP)|has no)"):
            _read(tmp_path / "x", encode_picture(kind, PICTURE, RECIPE)[:end])


def test_a_recipe_without_room(tmp_path: Path) -> None:
    seeds = tuple(range(1 << 63, (1 << 63) + 4000))
    many = replace(RECIPE, seeds=seeds, labels=(None,) * len(seeds))
    assert not has_room("JPEG", many, len(seeds)) and has_room("JPEG", RECIPE, 1)
    with pytest.raises(UsageError, match="has no flowship recipe"):
        _read(tmp_path / "x.jpg", encode_picture("JPEG", PICTURE, many))
    assert has_room("WEBP", many, len(seeds))
    assert _read(tmp_path / "x.webp", encode_picture("WEBP", PICTURE, many)).seeds == seeds


def test_hostile_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PICTURE)
    with pytest.raises(UsageError, match=r"x\.npz has no flowship recipe.*changed the file"):
        read_recipe(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", recipe=np.array([{"a": 1}], object))
    with pytest.raises(UsageError, match=r"x\.npz cannot be read as a \.npz: it is damaged"):
        read_recipe(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recipe.npy", bytes(30_000_000))
    with pytest.raises(UsageError, match="its recipe has more than 4,194,304 characters"):
        read_recipe(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.npz"])
def test_like_of_other_formats(flowship: Terminal, name: str) -> None:
    words = ["generate", "--seed", "3-5", "--label", "bag,none,2", "--guidance", 1, "-q"]
    columns = [] if name == "a.npz" else ["--columns", 3]
    flowship.ok(*words, *columns, "-o", "a.png")
    flowship.ok(*words, *columns, "-o", name)
    flowship.ok("generate", "--like", name, "-o", "b.png", "-q")
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    suffix = Path(name).suffix
    flowship.ok("generate", "--like", "a.png", "-o", f"b{suffix}", "-q")
    if suffix != ".npz":  # whose recipe has no columns
        assert Path(f"b{suffix}").read_bytes() == Path(name).read_bytes()


def test_a_jpeg_without_room_says_so(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowship.runtime import picture_formats

    monkeypatch.setitem(picture_formats._MAX_EXIF, "JPEG", 100)
    ran = flowship.ok("generate", "-o", "a.jpg", "-q")
    assert ran.err == "note: the recipe is not in a.jpg: a JPEG has room for 64 KB\n"


# ---- on the way between two ends ----------------------------------------------------------------


def test_version_2_is_for_what_needs_it() -> None:
    assert '"recipe_version":1}' in RECIPE.dumps() and "between" not in RECIPE.dumps()
    way = replace(RECIPE, noise="c" * 64, recipe_version=2, between=Between(8, (3, 9)))
    assert '"recipe_version":2,' in way.dumps()
    assert Recipe.loads(way.dumps()) == way
    for changed in (replace(way, seeds=(7,)).dumps().replace('"steps":8', '"steps":7'),
                    way.dumps().replace('"recipe_version":2', '"recipe_version":1'),
                    way.dumps().replace('"seeds":[3,9]', '"seeds":[3]'),
                    way.dumps().replace('"slerp"', '"lerp"'),
                    way.dumps().replace('"steps":8', '"steps":1000000000')):  # fmt: skip
        with pytest.raises(UsageError, match="recipe"):
            Recipe.loads(changed)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_strip_between_seeds_is_made_again(flowship: Terminal, suffix: str) -> None:
    words = ["interpolate", "--seeds", "3,9", "--steps", 4, "--label", "bag,coat", "-q"]
    flowship.ok(*words, "--guidance", 1, "-o", f"a{suffix}")
    flowship.ok("generate", "--like", f"a{suffix}", "-o", f"b{suffix}", "-q")
    assert Path(f"b{suffix}").read_bytes() == Path(f"a{suffix}").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_a_strip_between_pictures_is_made_again(flowship: Terminal) -> None:
    for seed in (1, 2):
        flowship.ok("generate", "--seed", seed, "--label", "bag", "-o", f"{seed}.png", "-q")
    words = ["interpolate", "--images", "1.png", "2.png", "--steps", 3, "--label", "bag", "-q"]
    report = flowship.ok(*words, "--json").json
    assert report["latents"] == "interpolation.png.latents.npy"
    strip, latents = Path("interpolation.png"), Path(report["latents"])
    assert np.load(latents).shape == (2, 49, 16)
    flowship.ok("generate", "--like", strip, "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == strip.read_bytes()
    # Its latents came along.
    flowship.ok("generate", "--like", "again.png", "-o", "third.png", "-q")
    assert Path("third.png").read_bytes() == strip.read_bytes()
    flowship.ok("generate", "--like", strip, "--separate", "-o", "each", "-q")
    one = sorted(Path("each").glob("*.png"))[1]
    flowship.ok("generate", "--like", one, "-o", "one.png", "-q")
    assert Path("one.png").read_bytes() == one.read_bytes()

    kept = latents.read_bytes()
    np.save(latents, np.zeros((2, 49, 16), np.float32))
    line = flowship.refused("generate", "--like", strip, "-o", "x.png")
    assert "interpolation.png.latents.npy holds other latents than those of interpolation" in line
    latents.unlink()
    line = flowship.refused("generate", "--like", strip, "-o", "x.png")
    assert "in interpolation.png.latents.npy beside it, which is not there" in line
    Path("moved").mkdir()
    strip.rename("moved/interpolation.png")
    Path("moved", latents.name).write_bytes(kept)
    flowship.ok("generate", "--like", "moved/interpolation.png", "-o", "x.png", "-q")
    assert Path("x.png").read_bytes() == Path("again.png").read_bytes()
