"""Files that a command cannot take, bundles of strangers too: one line each, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal, nothing_written
from conftest import UNCONDITIONAL, Exporter, golden_model
from PIL import Image

TINY = golden_model(UNCONDITIONAL).checkpoint


# ---- files that come in -------------------------------------------------------------------------


def _write_text(path: Path) -> None:
    path.write_text("hello")


def _write_other_shape(path: Path) -> None:
    np.save(path, np.zeros((1, 3, 5), np.float32))


def _write_nan(path: Path) -> None:
    np.save(path, np.full((1, 49, 16), np.nan, np.float32))


def _write_integers(path: Path) -> None:
    np.save(path, np.zeros((1, 49, 16), np.int64))


def _write_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_write_text, "cannot be read as .npy"),
        (_write_other_shape, "has the shape [1, 3, 5], expected [N, 49, 16]"),
        (_write_nan, "holds NaN or infinity"),
        (_write_integers, "holds int64, expected float32"),
        (_write_pickle, "cannot be read as .npy"),
    ],
)
def test_latents(flowship: Terminal, write: Callable[[Path], None], message: str) -> None:
    write(Path("in.npy"))
    line = flowship.refused("decode", "embedded", "in.npy", "-o", "out.npy")
    assert message in line and "in.npy" in line
    nothing_written("in.npy")


@pytest.mark.parametrize("command", ["score", "encode"])
def test_pictures(flowship: Terminal, command: str) -> None:
    output = ["-o", "out.npy"] if command == "encode" else []
    Path("fake.png").write_text("hello")
    Path("notes.txt").write_text("hello")
    Path("empty").mkdir()
    for name, message in (
        ("fake.png", "fake.png cannot be read as a picture"),
        ("notes.txt", "notes.txt is no picture by its name"),
        ("nowhere.png", "nowhere.png does not exist"),
        ("nowhere", "nowhere does not exist"),
        ("empty", "the folder empty has no pictures"),
    ):
        assert message in flowship.refused(command, "embedded", name, *output)
    nothing_written("fake.png", "notes.txt", "empty")


def test_a_picture_without_recipe(flowship: Terminal) -> None:
    Image.new("L", (28, 28)).save("plain.png")
    line = flowship.refused("generate", "--like", "plain.png", "-o", "x.png")
    assert "plain.png" in line
    nothing_written("plain.png")


def test_a_picture_of_another_bundle(flowship: Terminal, exported: Exporter) -> None:
    flowship.ok("generate", exported(TINY), "-o", "other.png")
    line = flowship.refused("generate", "--like", "other.png", "-o", "x.png")
    assert f"was made with the bundle {UNCONDITIONAL}" in line
    nothing_written("other.png")


def test_denoise_needs_gaussian_noise(flowship: Terminal) -> None:
    words = ("--noise-std", "uniform", "-o", "u.flowship", "-q")
    flowship.ok("export", TINY, *words)
    line = flowship.refused("generate", "u.flowship", "--denoise", "-o", "x.png")
    assert "cannot denoise: its training noise is uniform" in line
    flowship.ok("export", TINY, "--no-denoise", "-o", "n.flowship", "-q")
    line = flowship.refused("generate", "n.flowship", "--denoise", "-o", "x.png", status=1)
    assert "denois" in line
    nothing_written("n.flowship", "u.flowship")


# ---- bundles from strangers ---------------------------------------------------------------------


def _edit(name: str, change: Callable[[Any], object]) -> None:
    path = Path(name, "manifest.json")
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _escape(manifest: Any) -> None:
    manifest["arrays"]["var"]["path"] = "../../etc/passwd"
    manifest["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "0" * 64}


def _grow(manifest: Any) -> None:
    manifest["spec"]["image"]["img_size"] = 1 << 40


def _newer(manifest: Any) -> None:
    manifest["schema_version"] = 99


def _wrong_hash(manifest: Any) -> None:
    name = manifest["arrays"]["var"]["path"]
    manifest["files"][name]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [(_escape, ".."), (_grow, ""), (_newer, "99"), (_wrong_hash, "expected 00000000")],
)
def test_hostile_bundles(
    flowship: Terminal, exported: Exporter, change: Callable[[Any], object], message: str
) -> None:
    shutil.copytree(exported(TINY), "x.flowship")
    _edit("x.flowship", change)
    line = flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    assert "x.flowship" in line and message in line
    assert flowship("verify", "x.flowship").status == 1
    nothing_written("x.flowship")


def test_incomplete_bundles(flowship: Terminal, exported: Exporter, tmp_path: Path) -> None:
    shutil.copytree(exported(TINY), "x.flowship")
    weights = next(Path("x.flowship").rglob("*.bin"))
    kept = weights.read_bytes()
    weights.unlink()
    assert weights.name in flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    weights.symlink_to(tmp_path / "elsewhere")  # which is not there
    line = flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    assert weights.name in line and "link" in line
    weights.unlink()
    weights.write_bytes(kept[:-1])
    assert weights.name in flowship.refused("verify", "x.flowship", status=1)
    Path("x.flowship", "manifest.json").unlink()
    line = flowship.refused("inspect", "x.flowship", status=1)
    assert "there is no manifest.json: not a bundle" in line
    nothing_written("x.flowship")


@pytest.mark.parametrize("command", ["generate", "verify", "inspect"])
def test_no_bundle(flowship: Terminal, command: str) -> None:
    line = flowship.refused(command, "nowhere.flowship", status=1)
    assert "nowhere.flowship does not exist: expected a bundle, such as NAME.flowship" in line
    Path("a.flowship").write_text("hello")
    assert "neither a folder nor a zip" in flowship.refused(command, "a.flowship", status=1)
