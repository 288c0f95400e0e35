"""An export onto a bundle of the same weights adds or replaces what was asked for, and no more."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Terminal
from conftest import CONDITIONAL, UNCONDITIONAL, Exporter, golden_model

import flowship
from flowship.benchmarks.against import check_same_weights
from flowship.export import pipeline
from flowship.export.kept import Kept
from flowship.runtime import Bundle
from flowship.runtime.commands.inspect import quality_table, quality_words
from flowship.runtime.errors import UsageError
from flowship.runtime.manifest import Manifest
from flowship.runtime.table import format_interval, format_number

TINY = golden_model(UNCONDITIONAL).checkpoint


@pytest.fixture
def onnx(exported: Exporter, flowship: Terminal) -> Path:
    """x.flowship with onnx fp32 and int8, in the current folder."""
    shutil.copytree(exported(TINY, ("onnx",), ("fp32", "int8")), "x.flowship")
    return Path("x.flowship")


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def manifest(folder: Path) -> Manifest:
    return Manifest.loads((folder / "manifest.json").read_text("utf-8"))


def test_another_target_leaves_the_others_alone(flowship: Terminal, onnx: Path) -> None:
    before, old = contents(onnx), manifest(onnx)
    ran = flowship.ok("export", TINY, "--targets", "coreml", "-o", onnx)
    assert "onnx fp32, onnx int8 of the bundle stay as they are" in ran.err
    assert "kept as before: onnx fp32, onnx int8" in ran.out
    after, new = contents(onnx), manifest(onnx)
    changed = {name for name, digest in before.items() if after.get(name) != digest}
    assert changed == {"manifest.json", "plan.json"}
    assert new.precisions == {"onnx": ("fp32", "int8"), "coreml": ("fp16",)}
    assert new.quality[:2] == old.quality
    assert [(q.engine, q.precision) for q in new.quality[2:]] == [("coreml", "fp16")]
    assert set(old.golden.pictures) < set(new.golden.pictures)
    floors = json.loads((onnx / "plan.json").read_text())["profile"]["floors"]
    assert set(floors) == {"onnx fp32", "onnx int8", "coreml fp16"}
    with Bundle.open(onnx) as bundle:
        assert bundle.verify() == []
    flowship.ok("verify", onnx)
    assert [path.name for path in Path().iterdir()] == ["x.flowship"]


def test_it_is_as_if_all_were_exported_at_once(
    flowship: Terminal, exported: Exporter, onnx: Path
) -> None:
    """But for what the golden pictures say of the bundle that they were made with."""
    shutil.rmtree(onnx)
    shutil.copytree(exported(TINY), onnx)
    flowship.ok("export", TINY, "--precision", "fp16", "-o", onnx, "-q")
    once = exported(TINY, ("onnx",), ("fp32", "fp16"))
    found, wanted = contents(onnx), contents(once)
    assert found.keys() == wanted.keys()
    differ = {name for name in found if found[name] != wanted[name]}
    assert {name.partition("/")[0] for name in differ} <= {"golden", "manifest.json"}
    a, b = manifest(onnx), manifest(once)
    assert (a.artifacts, a.quality, a.arrays) == (b.artifacts, b.quality, b.arrays)


def test_a_precision_that_is_there_is_replaced_in_its_place(flowship: Terminal, onnx: Path) -> None:
    old = manifest(onnx)
    words = ("--precision", "fp32", "--no-denoise", "-o", onnx, "--json", "-q")
    found = flowship.ok("export", TINY, *words).json
    assert found["kept"] == ["onnx int8"]
    assert [(q["engine"], q["precision"]) for q in found["quality"]] == [
        ("onnx", "fp32"),
        ("onnx", "int8"),
    ]
    new = manifest(onnx)
    assert new.precisions == old.precisions
    for precision, roles in (("fp32", {"step"}), ("int8", {"step", "vjp"})):
        assert {a.role for a in new.artifacts if a.precision == precision} == roles
    assert not [name for name in contents(onnx) if "fp32/block0.vjp" in name]


def test_name_and_licence_stay_unless_they_are_said(flowship: Terminal, onnx: Path) -> None:
    words = ("export", TINY, "-o", onnx, "-q")
    flowship.ok(*words, "--name", "mine", "--licence", "MIT")
    assert (manifest(onnx).name, manifest(onnx).source.licence) == ("mine", "MIT")
    flowship.ok(*words)
    assert (manifest(onnx).name, manifest(onnx).source.licence) == ("mine", "MIT")
    flowship.ok(*words, "--licence", "CC0")
    assert (manifest(onnx).name, manifest(onnx).source.licence) == ("mine", "CC0")


def test_replace_starts_anew(flowship: Terminal, onnx: Path) -> None:
    found = flowship.ok("export", TINY, "-o", onnx, "--replace", "--json", "-q").json
    assert found["kept"] == [] and manifest(onnx).precisions == {"onnx": ("fp32",)}
    flowship.ok("export", golden_model(CONDITIONAL).checkpoint, "-o", onnx, "--replace", "-q")
    assert manifest(onnx).source.file.startswith(CONDITIONAL)


def _other_weights(folder: Path) -> list[object]:
    state = torch.load(TINY, weights_only=True)
    state["var"] = state["var"] * 2
    torch.save(state, folder / TINY.name)
    return [folder / TINY.name]


def _damaged(bundle: Path, name: str) -> list[object]:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    return [TINY]


CHANGES: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "weights": (lambda bundle: _other_weights(bundle.parent), "holds other weights"),
    "noise": (lambda bundle: [TINY, "--noise-std", "0.2"], "other settings (training_noise"),
    "kept file": (
        lambda bundle: _damaged(bundle, "onnx/int8/block0.weights.bin"),
        "onnx/int8/block0.weights.bin has the sha256",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_added_to_is_refused(
    flowship: Terminal, onnx: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = CHANGES[change]
    words = make(onnx)
    before = contents(onnx)
    monkeypatch.setattr(pipeline, "_Export", None)  # found before the work
    line = flowship.refused("export", *words, "-o", onnx, "-q")
    assert message in line and "--replace starts anew" in line
    assert contents(onnx) == before
    assert not list(Path().glob(".x.flowship*"))


def test_one_that_cannot_be_opened_is_refused(flowship: Terminal, onnx: Path) -> None:
    (onnx / "arrays" / "var.f32").unlink()
    line = flowship.refused("export", TINY, "-o", onnx, "-q")
    assert "arrays/var.f32 is missing" in line and "--replace starts anew" in line
    flowship.ok("export", TINY, "-o", onnx, "-q", "--replace")


def test_one_of_several_models_counts(flowship: Terminal, tmp_path: Path) -> None:
    state = torch.load(TINY, weights_only=True)
    path = tmp_path / TINY.name
    torch.save({"model": state, "ema": dict(state)}, path)
    line = flowship.refused("export", path, "-o", "x", status=1)
    assert "say which with --weights, one of model, ema" in line
    flowship.ok("export", path, "--weights", "ema", "-o", "x", "-q")
    assert manifest(Path("x")).source.file == f"{TINY.name}, weights ema"
    assert check_same_weights(path, [Path("x")]) == "ema"
    flowship.ok("export", path, "--weights", "model", "-o", "y", "-q")
    with pytest.raises(UsageError, match="only the same weights compare"):
        check_same_weights(path, [Path("x"), Path("y")])
    assert manifest(Path("x")).name == UNCONDITIONAL
    assert "holds other weights" in flowship.refused(
        "export", path, "--weights", "model", "-o", "x"
    )


def test_a_bundle_of_another_version_is_told(onnx: Path) -> None:
    with Bundle.open(onnx) as bundle:
        assert "made" not in (Kept(bundle, ()).note or "")
        old = Bundle(bundle.root, replace(bundle.manifest, flowship_version="0.0.1"))
        assert "which flowship 0.0.1 made; --replace" in (Kept(old, ()).note or "")
    assert flowship.__version__ != "0.0.1"


def test_two_exports_at_once_lose_nothing(
    flowship: Terminal, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline._Export.run

    def meanwhile(self: Any) -> Any:
        report = run(self)
        text = (onnx / "manifest.json").read_text("utf-8")
        (onnx / "manifest.json").write_text(text.replace(UNCONDITIONAL, "another", 1), "utf-8")
        return report

    monkeypatch.setattr(pipeline._Export, "run", meanwhile)
    line = flowship.refused("export", TINY, "-o", onnx, "-q")
    assert "was written by another program meanwhile" in line
    assert manifest(onnx).precisions == {"onnx": ("fp32", "int8")}


def test_a_disk_without_hard_links(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    Path("new").mkdir()
    with Bundle.open(onnx) as bundle:
        Kept(bundle, ()).bring(Path("new"))
    brought = contents(Path("new"))
    assert "onnx/fp32/block0.weights.bin" in brought
    assert brought.items() <= contents(onnx).items()


# ---- the table -----------------------------------------------------------------------------------


def test_the_table_names_its_errors_and_pictures(flowship: Terminal) -> None:
    np.save("pictures.npy", np.zeros((4, 3, 8, 8), np.float32))
    ran = flowship.ok("export", TINY, "-o", "x.flowship", "--data", "pictures.npy", "-q")
    header = ran.out.splitlines()[0]
    assert "error of xa, xb" in header and "of images" in header and "of round trip" in header
    assert "errors: largest differences: of (xa, xb) from" in ran.out
    assert "bits/dim of onnx fp32 on 4 pictures of pictures.npy, no labels" in ran.out
    assert ran.out.splitlines()[1].split()[-6:-4] != ["-0.00000", "-0.00000"]


def test_nothing_is_minus_nothing(exported: Exporter) -> None:
    with Bundle.open(exported(TINY)) as bundle:
        (row,) = bundle.manifest.quality
    row = replace(
        row,
        bits_per_dim_change=-1e-9,
        bits_per_dim_change_low=-2e-6,
        bits_per_dim_change_high=1e-7,
        bits_per_dim=-0.00001,
    )
    table = quality_table((row,))
    assert "-0.0" not in table and "+0.0" not in table
    assert "0.00000 to 0.00000" in table
    assert len(quality_words((row, row))) == len(quality_words((row,)))


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-0.0, "+.5f", "0.00000"),
        (-4e-6, "+.5f", "0.00000"),
        (4e-6, "+.5f", "0.00000"),
        (-6e-6, "+.5f", "-0.00001"),
        (1.5, "+.5f", "+1.50000"),
        (-0.0, ".1e", "0.0e+00"),
        (-1e-7, ".1e", "-1.0e-07"),
        (float("nan"), "+.1f", "+nan"),
        (float("-inf"), "+.1f", "-inf"),
    ],
)
def test_numbers(value: float, form: str, text: str) -> None:
    assert format_number(value, form) == text
    assert format_interval(None, value) == "-"
