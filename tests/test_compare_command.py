"""``flowship compare``: precisions side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal
from conftest import CONDITIONAL, Exporter, golden_model
from PIL import Image

PRECISIONS = ("fp32", "int8", "int4")


@pytest.fixture(scope="module")
def bundle(exported: Exporter) -> Path:
    return exported(golden_model(CONDITIONAL).checkpoint, ("onnx",), PRECISIONS)


def test_rows_and_the_sheet(flowship: Terminal, bundle: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    found = flowship("compare", bundle, "-n", 3, "--images", sheet, "--json", "-q")
    assert found.status == 0, found.err
    rows = found.json["rows"]
    assert [row["precision"] for row in rows] == list(PRECISIONS)
    sizes = [row["nbytes"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[0]["psnr_db"] is None and rows[1]["psnr_db"] > rows[2]["psnr_db"]
    for row in rows:
        assert row["ms_per_picture"] > 0
        assert row["bits_per_dim_change_low"] <= row["bits_per_dim_change"]
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    strips = np.array_split(pixels, len(PRECISIONS))
    words, pictures = strips[0][:, :130], strips[0][:, 130:]
    assert words.min() < 128 and len(np.unique(words)) > 1  # something is written there
    assert len(np.unique(pictures)) > 10
    assert not np.array_equal(strips[0][:, 130:], strips[2][:, 130:])


def test_the_table(flowship: Terminal, bundle: Path) -> None:
    found = flowship("compare", bundle, "-n", 1, "-q")
    assert found.status == 0, found.err
    header, *rows = found.out.splitlines()
    assert header.split()[:3] == ["engine", "precision", "size"]
    assert [row.split()[1] for row in rows[:3]] == list(PRECISIONS)
    assert "seeds 0 to 0 against onnx fp32" in rows[-1]


def test_likelihoods_of_the_users_pictures(
    flowship: Terminal, bundle: Path, tmp_path: Path
) -> None:
    shape = golden_shape(bundle)
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(40, np.int64))
    words = ("--data", tmp_path / "data.npz", "-n", 1, "--json", "-q")
    found = flowship("compare", bundle, *words)
    assert found.status == 0, found.err
    first, second, _ = found.json["rows"]
    assert first["bits_per_dim_change"] == 0 and first["bits_per_dim_change_low"] is None
    low, high = second["bits_per_dim_change_low"], second["bits_per_dim_change_high"]
    assert low <= second["bits_per_dim_change"] <= high
    assert "40 pictures of data.npz" in found.json["against"]


def golden_shape(bundle: Path) -> tuple[int, ...]:
    """[H, W] or [H, W, C] of the model's 8-bit pictures."""
    from flowship.runtime import Bundle

    with Bundle.open(bundle) as opened:
        channels, height, width = opened.spec.image.shape
    return (height, width) if channels == 1 else (height, width, channels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-n", 0), "-n 0 is not between 1 and 256"),
        (("--engine", "coreml"), "has nothing for the engine coreml"),
        (("--data", "nowhere.npz"), "--data nowhere.npz does not exist"),
        (("--images", "no/folder/x.png"), "no/folder"),
        (("--images", "sheet.jpg"), "--images sheet.jpg: the sheet is a PNG"),
        (("-n", 257), "-n 257 is not between 1 and 256"),
        (("--threads", "-1"), "'-1' is not a number of threads, 1 to 256"),
    ],
)
def test_misuse(flowship: Terminal, bundle: Path, words: tuple[object, ...], message: str) -> None:
    found = flowship("compare", bundle, *words)
    assert found.status == 2 and message in found.err and len(found.err.splitlines()) == 1
