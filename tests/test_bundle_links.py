"""Bundles as caches and file managers lay them out: files behind links, and litter between them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import PACKAGE, write_bundle

from flowship.runtime import Flow
from flowship.runtime.atomic import atomic_folder
from flowship.runtime.bundle import Bundle
from flowship.runtime.errors import BundleError, UsageError
from flowship.runtime.litter import is_litter_name
from flowship.runtime.manifest import MANIFEST, Artifact

GRAPH = "onnx/fp32/block0.onnx"
UNCOND = Path(__file__).parent / "golden" / "tiny_uncond_model_2_64_2_1_0.10.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny.flowship")


def as_hub_cache(folder: Path, cache: Path) -> Path:
    """As huggingface_hub lays a download: ``snapshots/REVISION/FILE`` into ``blobs/HASH``."""
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "main"
    blobs.mkdir(parents=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, file in enumerate(files):
        shutil.copy(file, blobs / f"{number:040x}")
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return snapshot


def package_of(bundle: Bundle) -> Artifact:
    return next(a for a in bundle.manifest.artifacts if a.engine == "coreml")


# ---- links --------------------------------------------------------------------------------------


def test_files_may_be_links(folder: Path, tmp_path: Path) -> None:
    snapshot = as_hub_cache(folder, tmp_path / "cache")
    with Bundle.open(snapshot) as bundle:
        assert bundle.sha256 == Bundle.open(folder).sha256
        assert bundle.path(GRAPH).read_bytes() == b"graph block0"
        assert bundle.array("block1.pos").shape == (4, 8)
        assert bundle.verify() == []


def test_engines_get_plain_files_by_their_names(folder: Path, tmp_path: Path) -> None:
    """Graphs name their weights, and Core ML follows no link out of a package."""
    with Bundle.open(as_hub_cache(folder, tmp_path / "cache")) as bundle:
        places = [bundle.artifact_path(artifact) for artifact in bundle.manifest.artifacts]
        for artifact, path in zip(bundle.manifest.artifacts, places, strict=True):
            assert path.as_posix().endswith(artifact.path)
            for name in artifact.files:
                file = path.parents[artifact.path.count("/")] / name
                assert file.is_file() and not file.is_symlink()
                assert file.read_bytes() == (folder / name).read_bytes()
        assert places == [bundle.artifact_path(a) for a in bundle.manifest.artifacts]
    assert not any(place.exists() for place in places)


@pytest.mark.parametrize("links", [True, False])
def test_pictures_of_a_hub_cache(
    exported: Callable[..., Path], tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without hard links; they say what the bundle as it was exported says."""
    if not links:
        monkeypatch.setattr(os, "link", _refuse)
    whole = exported(UNCOND, ("onnx", "coreml"))
    snapshot = as_hub_cache(whole, tmp_path / "cache")
    for engine in ("onnx", "coreml-interpreter"):
        with Flow.open(whole, engine=engine, threads=1) as flow:
            expected = flow.generate(seed=3).pictures()
        with Flow.open(snapshot, engine=engine, threads=1) as flow:
            assert np.array_equal(flow.generate(seed=3).pictures(), expected)


def test_no_room_for_plain_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    snapshot = as_hub_cache(folder, tmp_path / "cache")
    monkeypatch.setattr(os, "link", _refuse)
    monkeypatch.setattr(shutil, "copyfile", fill_up)
    with Bundle.open(snapshot) as bundle:
        with pytest.raises(BundleError, match=r"[.]partial: No space left.*set TMPDIR"):
            bundle.artifact_path(package_of(bundle))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(BundleError, match=r"does not fit .*, which has 0 free: copy the"):
            bundle.artifact_path(package_of(bundle))


def _refuse(*_: object) -> None:
    raise OSError("Invalid cross-device link")


def test_linked_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("onnx/fp32", "onnx"):
        (folder / name).rename(tmp_path / "outside")
        (folder / name).symlink_to(tmp_path / "outside")
        with pytest.raises(BundleError, match=r"the folder '\w+' is a link.*cp -rL"):
            Bundle.open(folder)
        (folder / name).unlink()
        (tmp_path / "outside").rename(folder / name)


@pytest.mark.parametrize("name", [GRAPH, MANIFEST])
def test_links_to_no_file_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for target, words in (
        (tmp_path / "nothing", "leads nowhere .No such file.*local_dir"),
        (tmp_path / "loop", "leads nowhere .Too many levels"),
        (tmp_path, "something other than a regular file"),
        (tmp_path / "pipe", "something other than a regular file"),
        (Path("/dev/zero"), "something other than a regular file"),
    ):
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        with pytest.raises(BundleError, match=f"{name} is a link .*{words}"):
            Bundle.open(folder)


def test_nothing_is_told_of_other_files(folder: Path, tmp_path: Path) -> None:
    """Neither content nor size nor hash of what a stranger's link points at."""
    secret = tmp_path / "secret"
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(secret)
    secret.write_bytes(b"of another size")
    with pytest.raises(BundleError, match="a file of another size than 12 bytes") as caught:
        Bundle.open(folder)
    assert "15 bytes" not in str(caught.value)
    secret.write_bytes(b"of this size")
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=f"{GRAPH} is a link to another file, expected"):
        bundle.path(GRAPH)
    (problem,) = bundle.verify()
    assert "is a link to another file" in problem


def test_a_manifest_behind_a_link_is_not_large(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)  # sparse
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(tmp_path / "huge")
    with pytest.raises(BundleError, match="at most 16,777,216 are read"):
        Bundle.open(folder)


def test_a_file_that_became_a_link_is_checked_again(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.path(GRAPH)
    (folder / GRAPH).rename(tmp_path / "outside")
    (folder / GRAPH).symlink_to(tmp_path / "outside")
    assert bundle.path(GRAPH) == (tmp_path / "outside").resolve()
    (tmp_path / "other").write_bytes(b"graph_block0")
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(tmp_path / "other")
    with pytest.raises(BundleError, match="is a link to another file"):
        bundle.path(GRAPH)


# ---- litter -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "litter"),
    [
        (".DS_Store", True),
        ("onnx/.DS_Store", True),
        ("onnx/._.DS_Store", True),
        ("Thumbs.db", True),
        ("thumbs.db", True),
        ("Desktop.ini", True),
        ("Icon\r", True),
        ("__MACOSX/tiny/._x", True),
        ("a/.Spotlight-V100/x", True),
        (".fseventsd/0000", True),
        (".Trashes/501/x", True),
        ("System Volume Information/IndexerVolumeGuid", True),
        ("onnx/._there", True),
        ("onnx/._gone", False),
        ("._", False),
        (".DS_Store/x", False),
        ("DS_Store", False),
        (".hidden", False),
        ("x.db", False),
    ],
)
def test_litter(path: str, litter: bool) -> None:
    assert is_litter_name(path, lambda other: other == "onnx/there") is litter


def leave_litter(folder: Path) -> None:
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for file in [path for path in place.iterdir() if path.is_file()]:
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (place / "desktop.ini").write_text("[.ShellClassInfo]")
    (folder / ".fseventsd").mkdir()
    (folder / ".fseventsd" / "0001").write_bytes(b"")


def test_litter_breaks_nothing(folder: Path) -> None:
    leave_litter(folder)
    bundle = Bundle.open(folder)
    assert bundle.verify() == []
    package = bundle.artifact_path(package_of(bundle))
    given = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {f"{PACKAGE}/{name}" for name in given} == set(package_of(bundle).files)


def test_what_only_looks_like_litter_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "onnx/._gone").write_text("of no file")
    (folder / "onnx/.DS_Store").symlink_to(tmp_path)
    (folder / "arrays/.DS_Store").mkdir()
    (folder / "arrays/.DS_Store/x").write_text("no litter")
    (folder / PACKAGE / ".DS_Store").symlink_to(tmp_path / "anywhere")
    bundle = Bundle.open(folder)
    problems = " ".join(bundle.verify())
    for name in ("onnx/._gone", "onnx/.DS_Store", "arrays/.DS_Store/x", f"{PACKAGE}/.DS_Store"):
        assert f"{name} is not declared" in problems
    with pytest.raises(BundleError, match=r"holds .DS_Store, which manifest.json does not"):
        bundle.artifact_path(package_of(bundle))


def test_a_folder_with_litter_alone_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_text("litter")
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "x").write_text("there")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "full" / "._notes.txt").write_text("litter")
    with (
        pytest.raises(UsageError, match="other things in it"),
        atomic_folder(tmp_path / "full"),
    ):
        pass
