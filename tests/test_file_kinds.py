"""What stands where a bundle or a checkpoint belongs is named, with what to type."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import Terminal
from conftest import UNCONDITIONAL, Exporter, golden_model
from PIL import Image

from flowship.runtime import Bundle, BundleError
from flowship.runtime.file_kinds import find_kind, is_checkpoint, other_than_bundle

GOOD = golden_model(UNCONDITIONAL).checkpoint


@pytest.fixture(scope="module")
def bundle(exported: Exporter) -> Path:
    return exported(GOOD)


def checkpoints(folder: Path) -> list[Path]:
    """By other names, formats and layouts; also a link to one."""
    (folder / "parts").mkdir()
    (folder / "parts" / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    found = [folder / "parts", folder / "parts" / "model.safetensors.index.json"]
    for name in ("x.pth.tar", "7c019028555b770c5759e169d55f7dcd", "x.zip"):
        found.append(Path(shutil.copy(GOOD, folder / name)))
    torch.save({"a": torch.zeros(1)}, folder / "old", _use_new_zipfile_serialization=False)
    (folder / "link").symlink_to(GOOD)
    (folder / "header").write_bytes((2).to_bytes(8, "little") + b"{}")
    return [*found, folder / "old", folder / "link", folder / "header"]


def test_checkpoints_are_told_by_content(tmp_path: Path) -> None:
    for path in checkpoints(tmp_path):
        assert is_checkpoint(path), path
        words = other_than_bundle(path) or ""
        assert "not a bundle: export it first with flowship export" in words, path
        with pytest.raises(BundleError, match="flowship export"):
            Bundle.open(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.png", b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        ("x", b"\xff\xd8\xff\xe0", "a JPEG picture"),
        ("x.webp", b"RIFF\0\0\0\0WEBPVP8 ", "a WebP picture"),
        ("x.heic", b"\0\0\0\x18ftypheic", "a HEIC or AVIF picture"),
        ("x.pte", b"\x1c\0\0\0ET12", "an ExecuTorch program"),
        ("x.onnx", b"\x08\x08\x12\x07", "an ONNX graph"),
        ("x.npy", b"\x93NUMPY\1\0", "a numpy array"),
        ("x.tar.gz", b"\x1f\x8b\x08", "a gzip archive"),
        ("x.flowship", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("x.zip", b"<!DOCTYPE html><html>", "a web page"),
        ("x.flowship", b"", "an empty file"),
        ("plan.json", b'{"plan": {}}', "a JSON file"),
    ],
)
def test_other_files(
    flowship: Terminal, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert words in flowship.refused("generate", path, status=1)
    assert words in flowship.refused("inspect", path, status=1)
    assert words in flowship.refused("export", path, "-o", "y.flowship", status=1)


def test_zips_of_something_else(tmp_path: Path) -> None:
    for name, entry, words in (
        ("a.zip", "thesis.txt", "a zip of something else ('thesis.txt')"),
        ("b.npz", "images.npy", "a numpy archive"),
        ("c.pt", "x/constants.pkl", "a TorchScript program"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(entry, b"1")
            if "constants" in entry:
                archive.writestr("x/data.pkl", b"1")
        with pytest.raises(BundleError) as caught:
            Bundle.open(tmp_path / name)
        assert words in str(caught.value) and "not a bundle" in str(caught.value)


def test_folders(tmp_path: Path, bundle: Path) -> None:
    package = tmp_path / "x.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Manifest.json").write_text("{}")
    (tmp_path / "many" / "one.flowship").mkdir(parents=True)
    (tmp_path / "many" / "one.flowship" / "manifest.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, words in (
        (package, "a Core ML package"),
        (tmp_path / "many", "a folder of bundles: one.flowship"),
        (tmp_path / "empty", "there is no manifest.json"),
    ):
        with pytest.raises(BundleError, match=words):
            Bundle.open(path)
    assert other_than_bundle(bundle) is None


def test_a_part_of_a_bundle_names_the_bundle(
    flowship: Terminal, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    name = bundle.name
    for part in ("manifest.json", "onnx", "onnx/fp32/block0.gqa_b1.onnx", "arrays/var.f32"):
        for command in ("generate", "verify", "inspect"):
            line = flowship.refused(command, f"{name}/{part}", status=1)
            assert f"a part of the bundle {name}: name {name}" in line
        line = flowship.refused("export", f"{name}/{part}", "-o", "y", status=1)
        assert f"a part of the bundle {name}" in line


def test_a_bundle_where_a_checkpoint_belongs(
    flowship: Terminal, bundle: Path, tmp_path: Path
) -> None:
    zipped = shutil.make_archive(str(tmp_path / "b"), "zip", bundle)
    for path, words in ((bundle, "a bundle"), (zipped, "a zipped bundle")):
        line = flowship.refused("export", path, "-o", "y.flowship", status=1)
        assert f"this is {words} already" in line and "flowship inspect" in line


def test_every_command_says_what_a_checkpoint_is(flowship: Terminal) -> None:
    Image.new("L", (8, 8)).save("x.png")
    for words in (
        ["generate", GOOD],
        ["verify", GOOD],
        ["compare", GOOD],
        ["plan", GOOD],
        ["score", GOOD, "x.png"],
        ["encode", GOOD, "x.png", "-o", "x.npy"],
        ["interpolate", GOOD, "--seeds", "1,2"],
        ["bench", GOOD, "-r", "3"],
    ):
        ran = flowship(*words)
        assert ran.status in (1, 2) and "Traceback" not in ran.err
        assert f"flowship export {GOOD}" in ran.err, words


def test_inspect_tells_checkpoints_by_content(flowship: Terminal, tmp_path: Path) -> None:
    (tmp_path / "hash").symlink_to(GOOD)
    for path in (shutil.copy(GOOD, tmp_path / f"{GOOD.name}.tar"), tmp_path / "hash"):
        assert flowship.ok("inspect", path, "--json").json["kind"] == "checkpoint"
    line = flowship.refused("inspect", "--weights", "ema", "embedded")
    assert "--weights is for checkpoints, and embedded is a bundle" in line


def test_half_a_checkpoint_is_no_bundle(flowship: Terminal) -> None:
    Path("x.pth").write_bytes(GOOD.read_bytes()[:50_000])
    assert "its name is that of a checkpoint" in flowship.refused("generate", "x.pth", status=1)
    assert "truncated or damaged" in flowship.refused("inspect", "x.pth", status=1)


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"\x01\x02\x03")
    os.mkfifo(tmp_path / "pipe")
    for path in ("noise", "pipe", "nothing", "a\0b"):
        assert find_kind(tmp_path / path) is None
