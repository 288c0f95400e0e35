"""Bundles on disk: right ones open, hostile and damaged ones are refused before anything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import (
    PACKAGE,
    Json,
    tiny_files,
    tiny_manifest,
    tiny_spec,
    write_bundle,
)

from flowship.runtime.bundle import Bundle
from flowship.runtime.bundle_rules import array_shapes, min_weight_bytes
from flowship.runtime.errors import BundleError
from flowship.runtime.hashing import sha256_bytes, sha256_of
from flowship.runtime.manifest import MANIFEST
from flowship.runtime.safe_paths import check_distinct, check_relative

GRAPH = "onnx/fp32/block0.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny.flowship")


# ---- right bundles ------------------------------------------------------------------------------


def test_opens_a_folder(folder: Path) -> None:
    with Bundle.open(folder) as bundle:
        assert bundle.root == folder.resolve()
        assert bundle.sha256 == sha256_of(folder / MANIFEST)
        assert bundle.spec == tiny_spec()
        assert bundle.nbytes == sum(map(len, tiny_files(tiny_spec()).values()))
        assert bundle.path(GRAPH).read_bytes() == b"graph block0"
        assert bundle.array("block1.pos").tolist() == np.arange(32).reshape(4, 8).tolist()
        assert bundle.verify() == []


def test_arrays_are_read_only(folder: Path) -> None:
    array = Bundle.open(str(folder)).array("var")
    assert array.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_artifact_paths(folder: Path) -> None:
    bundle = Bundle.open(folder)
    for artifact in bundle.manifest.artifacts:
        assert bundle.artifact_path(artifact) == folder.resolve() / artifact.path
    assert (folder / PACKAGE).is_dir()


def test_hashes_are_checked_once_and_lazily(folder: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.path(GRAPH)
    (folder / GRAPH).write_bytes(b"graph_block0")  # the same size
    bundle.path(GRAPH)
    with pytest.raises(BundleError, match=f"{GRAPH} has the sha256 .*, expected .*changed"):
        Bundle.open(folder).path(GRAPH)
    assert len(bundle.verify()) == 1


def test_an_unwritten_manifest(folder: Path) -> None:
    manifest = tiny_manifest(tiny_spec(), tiny_files(tiny_spec()))
    (folder / MANIFEST).unlink()
    bundle = Bundle(folder, manifest)
    assert bundle.sha256 == sha256_bytes(manifest.dumps().encode())
    assert bundle.path(GRAPH)
    with pytest.raises(BundleError, match="cannot be part of a file name"):
        Bundle(folder, replace(manifest, name="../x"))


def test_a_root_behind_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link").path(GRAPH) == folder.resolve() / GRAPH


def test_verify_tells_every_problem(folder: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / GRAPH).write_bytes(b"graph_block0")
    (folder / "arrays/var.f32").write_bytes(b"")
    (folder / f"{PACKAGE}/Manifest.json").unlink()
    (folder / "notes.txt").write_text("hi")
    damaged = bundle.verify()
    expected = ("arrays/var.f32 has 0 bytes", GRAPH, "is missing", "notes.txt is not declared")
    assert len(damaged) == 4
    for words in expected:
        assert any(words in line for line in damaged)


def test_unknown_manifest_keys_are_for_newer_programs(folder: Path, tmp_path: Path) -> None:
    Bundle.open(write_bundle(tmp_path / "newer", lambda m: m.update(colour="blue")))


def test_unconditional_models_have_one_class_row(tmp_path: Path) -> None:
    spec = tiny_spec(in_channels=3, num_classes=0)
    bundle = Bundle.open(write_bundle(tmp_path / "b", spec=spec))
    assert bundle.array("block0.classes").shape == (1, 8)
    assert array_shapes(spec)["var"] == (4, 12)


# ---- not a bundle -------------------------------------------------------------------------------


def test_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match=r"half: there is no manifest.json.*did not finish"):
        Bundle.open(tmp_path / "half")
    with pytest.raises(BundleError, match="neither a folder nor a zip"):
        Bundle.open(tmp_path / "text")
    with pytest.raises(BundleError, match="does not exist: expected a bundle"):
        Bundle.open(tmp_path / "nothing")


def test_a_zip_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.flowship"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(BundleError, match=r"x\.flowship is a zip without its end: .*download it"):
        Bundle.open(path)


@pytest.mark.parametrize("name", [MANIFEST, GRAPH])
def test_a_clone_without_git_lfs(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BundleError, match=f"{name} is a Git LFS pointer: git lfs pull"):
        Bundle.open(folder)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="neither a folder nor a zip"):
        Bundle.open(tmp_path / "pipe")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / MANIFEST)
    with pytest.raises(BundleError, match=r"manifest.json is not a regular file"):
        Bundle.open(tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark: an editor changed it"),
        ("{}".encode("utf-16"), "begins with a byte order mark: an editor changed it"),
        (b"\xfe\xff\0{\0}", "begins with a byte order mark: an editor changed it"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"schema_version": 1, "schema_version": 1}', "'schema_version' is there twice"),
        (b'{"schema_version": NaN}', "NaN is not a JSON number"),
        (b"[]", "schema_version is missing"),
        (b"{}", "schema_version is missing"),
        (b'{"schema_version": "1"}', "schema_version is missing"),
        (b'{"schema_version": 99}', "99 is newer than 1.*update flowship"),
        (b'{"schema_version": 1}', "the key 'flowship_version' is missing"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_wrong_manifests(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=words):
        Bundle.open(tmp_path)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(BundleError, match="has 1,073,741,824 bytes, at most 16,777,216"):
        Bundle.open(tmp_path)


# ---- manifests that contradict themselves -------------------------------------------------------


def _set(*path: str | int, to: object) -> Callable[[Json], None]:
    def edit(manifest: Json) -> None:
        place = manifest
        for key in path[:-1]:
            place = place[key]  # type: ignore[index]
        place[path[-1]] = to  # type: ignore[index]

    return edit


def _declare(name: str, num_bytes: int = 1) -> Callable[[Json], None]:
    return _set("files", name, to={"bytes": num_bytes, "sha256": "0" * 64})


HOSTILE: list[tuple[Callable[[Json], object], str]] = [
    (_declare("../evil"), r"'\.\./evil' is not allowed"),
    (_declare("onnx/../../evil"), "is not allowed"),
    (_declare("/etc/passwd"), "'/etc/passwd' is not allowed"),
    (_declare("C:/evil"), "'C:/evil' is not allowed"),
    (_declare("a\\b"), "is not allowed"),
    (_declare("a\0b"), "is not allowed"),
    (_declare("a//b"), "is not allowed"),
    (_declare("./a"), "is not allowed"),
    (_declare(""), "is not allowed"),
    (_declare("a/b\n"), "is not allowed"),
    (_declare("stra\u00dfe"), "ASCII"),
    (_declare("a/nul.txt"), "Windows cannot store 'nul.txt'"),
    (_declare("a./b"), "Windows cannot store 'a.'"),
    (_declare("x" * 1000), "longer than 512"),
    (_declare("/".join("a" * 40)), "32 folders"),
    (_declare("ONNX/FP32/BLOCK0.onnx"), "are the same file on a disk that ignores case"),
    (_declare("Manifest.JSON"), "manifest.json cannot declare itself"),
    (_declare("missing.bin"), "missing.bin is missing"),
    (_declare("onnx", 4096), "onnx is not a regular file"),
    (_set("files", GRAPH, "bytes", to=13), f"{GRAPH} has 12 bytes, expected 13"),
    (_set("files", GRAPH, "bytes", to=-12), "has -12 bytes"),
    (_set("files", GRAPH, "sha256", to="A" * 64), "expected a size and 64 hexadecimal digits"),
    (_set("arrays", "var", "path", to="../var"), "is not allowed"),
    (_set("arrays", "var", "path", to="var.f32"), "var.f32 is not declared in files"),
    (_set("arrays", "var", "shape", to=[1 << 20, 1 << 20]), r"the model needs \[4, 4\]"),
    (_set("arrays", "extra", to={"path": GRAPH, "shape": [3, 2]}), "needs 24 bytes as float32"),
    (_set("arrays", "extra", to={"path": GRAPH, "shape": [-3, -1]}), "has the shape"),
    (_set("arrays", "extra", to={"path": GRAPH, "shape": [1] * 9}), "has the shape"),
    (lambda m: m["arrays"].pop("block1.pos"), r"block1.pos \[4, 8\] is missing"),
    (_set("artifacts", 0, "stage", to="block7"), "no stage 'block7'"),
    (_set("artifacts", 0, "branches", to=1 << 40), "expected 1 or 2"),
    (_set("artifacts", 0, "windows", to=[0]), r"expected 1 to 4, got \[0\]"),
    (_set("artifacts", 0, "windows", to=[5]), r"expected 1 to 4, got \[5\]"),
    (_set("artifacts", 0, "path", to="../x"), "is not allowed"),
    (_set("artifacts", 0, "path", to="coreml/fp16/other"), "neither one of its files nor"),
    (_set("artifacts", 0, "files", to=["gone"]), "gone is not declared in files"),
    (_set("artifacts", 0, "files", to=[]), "neither one of its files nor"),
    (_set("artifacts", 1, "files", to=["onnx/fp32/block1.onnx"]), "too few for the weights"),
    (_set("name", to="a/b"), "cannot be part of a file name"),
    (_set("name", to="\x1b[2J"), "cannot be printed"),
    (_set("name", to=""), "cannot be part of a file name"),
    (_set("spec", "image", "img_size", to=1 << 40), "img_size is .*, expected 1 to 8192"),
    (_set("spec", "image", "num_patches", to=5), "are not num_patches 5"),
    (_set("spec", "stages", 0, "channels", to=1 << 30), "expected 1 to 32768"),
    (_set("spec", "stages", 0, "num_layers", to=1 << 30), "expected 1 to 256"),
    (_set("spec", "stages", 0, "num_heads", to=-1), "num_heads is -1"),
    (_set("spec", "stages", 0, "kind", to=["ar_block"]), "expected one of 'ar_block'"),
    (_set("spec", "stages", 1, "name", to="block1"), "two stages have the same name"),
    (_set("spec", "latents", 0, "shape", to=[-4, -4]), "latent axis is -4"),
    (_set("spec", "latents", 0, "shape", to=[1 << 40] * 99), "number of latent axes is 99"),
    (_set("spec", "training_noise", "std", to=-1), "expected more than 0"),
    (_set("spec", "training_noise", "std", to=10**400), "is not a finite number"),
    (_set("golden", "pictures", to=[{
        "path": "golden/x.png", "engine": "onnx", "precision": "fp32",
        "seed": 1, "label": None, "guidance": 0,
    }]), "golden/x.png is not declared"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_manifests(tmp_path: Path, case: int) -> None:
    edit, words = HOSTILE[case]
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(write_bundle(tmp_path / "b", edit))
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


def test_a_number_beyond_float64(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    text = (tmp_path / MANIFEST).read_text().replace('"std": 0.1', '"std": 1e999')
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=r"training_noise.std: inf is not a finite number"):
        Bundle.open(tmp_path)


def test_sizes_must_be_backed_by_weights() -> None:
    spec = tiny_spec()
    block = replace(spec.ar_blocks[0], channels=4096, head_dim=64, num_heads=64, num_layers=256)
    assert min_weight_bytes(spec, block) > 1 << 30


def test_a_manifest_cannot_ask_for_a_giant_cache(tmp_path: Path) -> None:
    def edit(manifest: Json) -> None:
        manifest["spec"]["image"] |= {"img_size": 512, "num_patches": 1 << 16}
        manifest["spec"]["latents"][0]["shape"] = [1 << 16, 4]
        manifest["spec"]["latents"][0]["prior"] = "standard_normal"
        stage = manifest["spec"]["stages"][0]
        stage |= {"channels": 1024, "head_dim": 1024, "num_layers": 256}
        for name, rows in (("pos", 1 << 16), ("classes", 4)):
            for b in (0, 1):
                path = f"arrays/block{b}.{name}.big"
                shape = [rows, 1024 if b == 1 else 8]
                manifest["arrays"][f"block{b}.{name}"] = {"path": path, "shape": shape}
                _declare(path, 4 * shape[0] * shape[1])(manifest)

    with pytest.raises(BundleError, match="block1 would need a KV cache of 128 GiB"):
        Bundle.open(write_bundle(tmp_path / "b", edit))


# ---- files that are not what they seem ----------------------------------------------------------


def test_missing_file(folder: Path) -> None:
    (folder / GRAPH).unlink()
    with pytest.raises(BundleError, match=f"{GRAPH} is missing"):
        Bundle.open(folder)


def test_extra_files_in_a_package(folder: Path) -> None:
    bundle = Bundle.open(folder)
    package = next(a for a in bundle.manifest.artifacts if a.engine == "coreml")
    (folder / PACKAGE / "Data/evil.mlmodel").write_bytes(b"")
    with pytest.raises(BundleError, match=r"holds Data/evil.mlmodel, which manifest.json does not"):
        bundle.artifact_path(package)
    (folder / PACKAGE / "Data/evil.mlmodel").unlink()
    (folder / PACKAGE / "Data/link").symlink_to(folder)
    with pytest.raises(BundleError, match="holds Data/link"):
        bundle.artifact_path(package)


def test_undeclared_files_have_no_path(folder: Path) -> None:
    (folder / "notes.txt").write_text("hi")
    bundle = Bundle.open(folder)
    for name in ("notes.txt", "../tiny.flowship/notes.txt", MANIFEST, "/etc/passwd"):
        with pytest.raises(BundleError, match=r"is not declared in manifest.json"):
            bundle.path(name)
    with pytest.raises(BundleError, match=r"no array 'block9.pos'"):
        bundle.array("block9.pos")


def test_arrays_must_be_finite(tmp_path: Path) -> None:
    data = np.full((4, 4), np.nan, "<f4").tobytes()
    entry = {"bytes": len(data), "sha256": sha256_bytes(data)}
    folder = write_bundle(tmp_path / "b", _set("files", "arrays/var.f32", to=entry))
    (folder / "arrays/var.f32").write_bytes(data)
    with pytest.raises(BundleError, match="the array var holds NaN or infinity"):
        Bundle.open(folder).array("var")


def test_closed_bundles_give_no_paths(folder: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.close()
    bundle.close()
    assert (folder / GRAPH).exists()
    with pytest.raises(BundleError, match="is closed"):
        bundle.path(GRAPH)


# ---- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a", "a/b.c", "Data/com.apple.CoreML/x.mlmodel", ".hidden/a b"])
def test_good_paths(path: str) -> None:
    check_relative(path)


def test_distinct_paths() -> None:
    check_distinct(["a", "b", "a/b"])
    with pytest.raises(BundleError, match="'A/b' and 'a/B' are the same file"):
        check_distinct(["A/b", "a/B"])


def test_hash_of_large_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == sha256_bytes(data)


def test_a_manifest_survives_the_round_trip(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert json.loads(manifest.dumps()) == json.loads((folder / MANIFEST).read_text())
