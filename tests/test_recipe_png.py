"""Every PNG carries its recipe, and a recipe from a stranger is checked."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from recipes import recipe

from flowship.runtime.errors import UsageError
from flowship.runtime.png import encode_png, write_png
from flowship.runtime.recipe import MAX_PICTURES, PHILOX_NOISE, Recipe
from flowship.runtime.recipe_files import read_recipe
from flowship.runtime.schema import to_json

RECIPE = recipe(
    seeds=(1, 2, 3, 9, (1 << 64) - 1),
    labels=(0, None, 2, 3, 4),
    guidance=1.5,
    guide_what="b",
    annealed_guidance=True,
    attn_temp=0.7,
    denoise=True,
)
SINGLE = replace(RECIPE, seeds=(7,), labels=(None,))
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6)).astype(np.uint8)


def test_json_round_trip() -> None:
    assert Recipe.loads(RECIPE.dumps()) == RECIPE
    assert RECIPE.dumps().isascii()
    named = replace(RECIPE, bundle="K\u00e4tzchen")
    assert named.dumps().isascii()
    assert Recipe.loads(named.dumps()) == named


def test_description() -> None:
    expected = "fashion-mnist, seed 1-3, 9, 18446744073709551615, guidance 1.5, onnx fp32"
    assert RECIPE.description == expected
    given = replace(RECIPE, seeds=(0, 1, 2, 3, 4), noise="c" * 64)
    assert "given noise 0-4" in given.description
    many = replace(RECIPE, seeds=tuple(range(0, 20, 2)), labels=(None,) * 10)
    assert "seed 0, 2, 4, 6, 8, ..., guidance" in many.description


def test_a_grid_carries_its_recipe(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", PICTURES, RECIPE, columns=2)
    assert path == tmp_path / "x.png"
    assert read_recipe(path) == replace(RECIPE, columns=2)
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("RGB", (14, 16))
        assert image.info["Software"] == "flowship 0.1.0"
        assert image.info["Description"] == RECIPE.description
        assert np.array_equal(np.asarray(image)[:4, :6].transpose(2, 0, 1), PICTURES[0])
    write_png(path, PICTURES, RECIPE)
    assert read_recipe(path).columns == 3


def test_a_single_picture(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", PICTURES[:1, :1], SINGLE)
    assert read_recipe(path) == SINGLE
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (6, 4))
        assert np.array_equal(np.asarray(image), PICTURES[0, 0])


def test_same_input_same_bytes() -> None:
    data = encode_png(PICTURES, RECIPE)
    assert encode_png(PICTURES.copy(), RECIPE) == data
    assert b"tIME" not in data
    assert b"flowship" not in encode_png(PICTURES)


@pytest.mark.parametrize(
    "pictures",
    [
        PICTURES.astype(np.float32),
        PICTURES[0],
        np.zeros((1, 4, 2, 2), np.uint8),
        np.zeros((2, 2), np.uint8),
    ],
)
def test_what_is_no_png(pictures: Any) -> None:
    with pytest.raises(UsageError, match=r"a PNG holds grey or RGB pictures .*: write a .npy"):
        encode_png(pictures, RECIPE)


def test_where_a_png_cannot_go(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        write_png(tmp_path / "nowhere" / "x.png", PICTURES, RECIPE)
    with pytest.raises(UsageError, match="is a folder"):
        write_png(tmp_path, PICTURES, RECIPE)


# ---- recipes of strangers -----------------------------------------------------------------------


def _png(text: str | None, key: str = "flowship", packed: bool = False) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    if text is not None:
        info.add_text(key, text, zip=packed)
    Image.new("L", (2, 2)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _with(**changes: Any) -> str:
    return json.dumps({**to_json(RECIPE), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no flowship recipe: flowship did not write it"),
        ("", "the recipe is not JSON"),
        ("{}", "recipe: the key 'flowship_version' is missing"),
        ("[" * 100_000, "the recipe is not JSON"),
        (" " * 5_000_000, "its recipe has 5,000,000 characters"),
        (_with(recipe_version=3), "the recipe has version 3, newer than 2.*update flowship"),
        (_with(seeds=[-1] * 5), "seed -1 is not between"),
        (_with(seeds=[1 << 64] * 5), "is not between 0 and 2\\^64 - 1"),
        (_with(seeds=["7"] * 5), r"recipe.seeds\[0\]: expected an integer, got '7'"),
        (_with(seeds=[1]), "1 seeds and 5 labels, expected the same number"),
        (_with(seeds=[], labels=[]), "0 seeds and 0 labels"),
        (
            _with(seeds=[0] * (MAX_PICTURES + 1), labels=[None] * (MAX_PICTURES + 1)),
            "65537 seeds",
        ),
        (_with(labels=[-1] * 5), "a label is negative"),
        (_with(guidance=-1), "guidance is -1.0"),
        (_with(attn_temp=0), "attn_temp 0.0"),
        (_with(guide_what="c"), "recipe.guide_what: expected one of 'ab', 'a', 'b'"),
        (_with(columns=0), "columns is 0"),
        (
            _with(plan={"windows": {"block0": 10**9}}),
            "recipe.plan: a window of 1000000000 patches, expected 1 to 65536",
        ),
        (_with(noise="mine"), "noise is 'mine', expected philox4x32-10/as241 or a sha256"),
        (_with(bundle_sha256="x"), "bundle_sha256 is 'x'"),
        (_with(engine="\x1b[31m"), "expected a short name"),
        (_with(bundle=""), "bundle is ''"),
        (_with(guidance=1.5).replace("1.5", "NaN"), "NaN is not a JSON number"),
    ],
)
def test_wrong_recipes(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "x.png").write_bytes(_png(text))
    with pytest.raises(UsageError, match=rf"x\.png.*{message}") as caught:
        read_recipe(tmp_path / "x.png")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_recipes_of_newer_minor_versions(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(_png(_with(mood="good")))
    assert read_recipe(tmp_path / "x.png") == RECIPE


def test_a_compressed_bomb_of_text(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(_png(" " * 100_000_000, packed=True))
    with pytest.raises(UsageError, match=r"x\.png cannot be read as a PNG"):
        read_recipe(tmp_path / "x.png")


def test_not_a_png(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "x.jpg")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "half.png").write_bytes(_png(RECIPE.dumps())[:60])
    for name in ("x.jpg", "text.png", "half.png", "nothing.png"):
        with pytest.raises(UsageError, match=f"{name} (cannot be read|has no|does not exist)"):
            read_recipe(tmp_path / name)


def test_noise_is_named() -> None:
    assert RECIPE.noise == PHILOX_NOISE == "philox4x32-10/as241"
