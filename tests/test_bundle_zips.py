"""Zipped bundles: as all sorts of programs write them, and as strangers would."""

from __future__ import annotations

import gc
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import Json, write_bundle

from flowship.runtime.bundle import Bundle
from flowship.runtime.errors import BundleError
from flowship.runtime.manifest import MANIFEST

GRAPH = "onnx/fp32/block0.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny.flowship")


def _zip(folder: Path, path: Path, prefix: str = "", packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "tiny.flowship/", "Fl\u00f6\u00dfe 1/"])
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_opens_a_zip(folder: Path, tmp_path: Path, prefix: str, packing: int) -> None:
    path = _zip(folder, tmp_path / "tiny.zip", prefix, packing)
    with Bundle.open(path) as bundle:
        root = bundle.root
        assert bundle.sha256 == Bundle.open(folder).sha256
        assert bundle.verify() == []
        assert bundle.path(GRAPH).read_bytes() == b"graph block0"
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert not root.exists()


def test_a_forgotten_zip_is_removed(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(_zip(folder, tmp_path / "tiny.zip"))
    root = bundle.root
    del bundle
    gc.collect()
    assert not root.exists()


def test_litter_and_undeclared_entries_stay_in_the_zip(folder: Path, tmp_path: Path) -> None:
    path = _zip(folder, tmp_path / "tiny.zip", "tiny.flowship/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/tiny.flowship/._manifest.json", b"litter")
        archive.writestr("tiny.flowship/onnx/.DS_Store", b"litter")
        archive.writestr("tiny.flowship/README", b"hello")
        archive.writestr("._tiny.flowship", b"litter")
        archive.writestr("tiny.flowship/._manifest.json", b"litter")
        archive.writestr("Thumbs.db", b"litter")
        archive.writestr("System Volume Information/IndexerVolumeGuid", b"litter")
        archive.writestr("tiny.flowship/Icon\r", b"litter")
    with Bundle.open(path) as bundle:
        assert bundle.verify() == []
        assert not (bundle.root / "README").exists()


def _entry(name: str, mode: int = 0, data: bytes = b"x") -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name  # the constructor would tidy it
        info.external_attr = mode << 16
        archive.writestr(info, data)

    return add


def _named(folder: Path, path: Path, name: Callable[[str], str], folders: bool = False) -> Path:
    """A zip with names as another program writes them."""
    with zipfile.ZipFile(path, "w") as archive:
        if folders and (top := name("").strip("./\\")):
            _entry(f"{top}/", 0, b"")(archive)
        for file in sorted(folder.rglob("*")):
            inner = file.relative_to(folder).as_posix()
            if file.is_file():
                _entry(name(inner), 0, file.read_bytes())(archive)
            elif folders:
                _entry(name(f"{inner}/"), 0, b"")(archive)
    return path


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        lambda inner: inner.replace("/", "\\"),
        lambda inner: f"tiny.flowship/{inner}".replace("/", "\\"),
        lambda inner: f"Flöße 1/{inner}".replace("/", "\\"),
        lambda inner: f"./{inner}",
        lambda inner: f"./tiny.flowship/{inner}",
        lambda inner: f".\\tiny.flowship\\{inner}",
        lambda inner: f"tiny.flowship/./{inner}",
        lambda inner: f"Downloads/tiny.flowship/{inner}",
        lambda inner: f"a/b/c\\tiny.flowship/{inner}",
    ],
)  # fmt: skip
def test_zips_of_other_programs(
    folder: Path, tmp_path: Path, name: Callable[[str], str], folders: bool
) -> None:
    """PowerShell 5 and old .NET, ``zip -r x.zip ./tiny.flowship``, a folder zipped in a folder."""
    # A zip by what it holds, not by its name.
    path = _named(folder, tmp_path / "zipped.flowship", name, folders)
    with Bundle.open(path) as bundle:
        assert bundle.sha256 == Bundle.open(folder).sha256
        assert bundle.verify() == []


def test_names_without_the_flag_of_utf8(folder: Path, tmp_path: Path) -> None:
    """In code page 437 as old programs write them: the folder's name is no part of the bundle."""
    path = _zip(folder, tmp_path / "tiny.zip", "Floesse/", zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"Floesse/", b"Fl\x94\xe1e 1/"))
    with Bundle.open(path) as bundle:
        assert bundle.verify() == []


def test_a_zip64(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = _zip(folder, tmp_path / "tiny.zip", "tiny.flowship/")
    monkeypatch.undo()
    assert b"PK\x06\x06" in path.read_bytes()  # the end record of ZIP64
    with Bundle.open(path) as bundle:
        assert bundle.verify() == []


def test_of_several_deep_bundles_none_is_chosen(folder: Path, tmp_path: Path) -> None:
    path = _zip(folder, tmp_path / "tiny.zip", "a/b/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/y/manifest.json", b"{}")
    with pytest.raises(BundleError, match=r"has 2 manifest.json at its top or in a folder"):
        Bundle.open(path)


def test_a_manifest_with_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes())
    with pytest.raises(BundleError, match=r"manifest.json begins with a byte order mark"):
        Bundle.open(_zip(folder, tmp_path / "tiny.zip"))


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (_entry("../evil"), "beside the bundle's folder|is not allowed"),
        (_entry("tiny/../../evil"), "is not allowed"),
        (_entry("/etc/passwd"), "beside the bundle's folder"),
        (_entry("tiny//etc/passwd"), "is not allowed"),
        (_entry("tiny/C:/evil"), "is not allowed"),
        (_entry("tiny/onnx\\..\\..\\evil"), "is not allowed"),
        (_entry("..\\evil"), "beside the bundle's folder"),
        (_entry("tiny\\..\\..\\evil"), "is not allowed"),
        (_entry("\\etc\\passwd"), "beside the bundle's folder"),
        (_entry("tiny\\C:\\evil"), "is not allowed"),
        (_entry("C:\\evil"), "beside the bundle's folder"),
        (_entry("\\\\server\\share\\evil"), "beside the bundle's folder"),
        (_entry("tiny/\\\\server\\evil"), "is not allowed"),
        (_entry("tiny\\nul.txt"), "Windows cannot store 'nul.txt'"),
        (_entry("tiny\\manifest.json"), "has 2 manifest.json"),
        (_entry("./tiny/manifest.json"), "has 2 manifest.json"),
        (_entry(f"tiny\\{GRAPH}"), "same file"),
        (_entry(f"./tiny/./{GRAPH}"), "same file"),
        (_entry(f"tiny\\{GRAPH.upper()}"), "same file on a disk that ignores case"),
        (_entry("tiny/a\0b"), "is not allowed"),
        (_entry("tiny/link", stat.S_IFLNK | 0o777, b"/etc/passwd"), "link is a link"),
        (_entry("tiny/pipe", stat.S_IFIFO | 0o777), "pipe is a link or a special file"),
        (_entry("tiny/manifest.JSON"), "same file on a disk that ignores case"),
        (_entry("other/x"), "beside the bundle's folder 'tiny/'"),
        (_entry("other/manifest.json"), "has 2 manifest.json"),
        (_entry("manifest.json"), "has 2 manifest.json"),
    ],
)
def test_hostile_zips(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    add: Callable[[zipfile.ZipFile], None],
    words: str,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = _zip(folder, tmp_path / "tiny.zip", "tiny/")
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=words):
        Bundle.open(path)
    assert set(tmp_path.rglob("*")) == before


def test_two_entries_of_one_name(folder: Path, tmp_path: Path) -> None:
    path = _zip(folder, tmp_path / "tiny.zip")
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr(GRAPH, b"other graph!")
    with pytest.raises(BundleError, match="same file"):
        Bundle.open(path)


@pytest.mark.parametrize(
    "prefix", ["../", "/", "..\\", "\\", "C:\\", "a/../../", "\\\\server\\x\\"]
)
def test_a_top_folder_that_points_out(folder: Path, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                _entry(prefix + file.relative_to(folder).as_posix(), 0, file.read_bytes())(archive)
    with pytest.raises(BundleError, match="points out of it"):
        Bundle.open(path)


def test_zip_bomb(tmp_path: Path) -> None:
    """200 MB of zeros in 200 kB are refused before a byte is unpacked."""
    size = 200_000_000

    def edit(manifest: Json) -> None:
        manifest["files"]["zeros.bin"] = {"bytes": size, "sha256": "0" * 64}

    folder = write_bundle(tmp_path / "b", edit)
    path = _zip(folder, tmp_path / "bomb.zip")
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.bin", "w") as file,
    ):
        for _ in range(size // 1_000_000):
            file.write(bytes(1_000_000))
    with pytest.raises(BundleError, match=r"claims to unpack to 200,0.*do not compress like that"):
        Bundle.open(path)


def test_zips_that_lie_about_sizes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                name = file.relative_to(folder).as_posix()
                archive.writestr(name, b"longer than it should be" if name == GRAPH
                                 else file.read_bytes())  # fmt: skip
    with pytest.raises(BundleError, match=f"the zip's {GRAPH} has 24 bytes, expected 12"):
        Bundle.open(path)
    data = path.read_bytes()
    at = data.rindex(GRAPH.encode()) - 46  # its entry in the central directory
    lying = data[: at + 24] + (12).to_bytes(4, "little") + data[at + 28 :]
    path.write_bytes(lying)
    with pytest.raises(BundleError, match="the zip is damaged"):
        Bundle.open(path)


def test_missing_in_the_zip(folder: Path, tmp_path: Path) -> None:
    (folder / GRAPH).unlink()
    with pytest.raises(BundleError, match=f"{GRAPH} is missing in the zip"):
        Bundle.open(_zip(folder, tmp_path / "tiny.zip"))


def test_damaged_zips(folder: Path, tmp_path: Path) -> None:
    """Bytes of the zip changed in turn: it opens with the right bytes or says BundleError."""
    path = _zip(folder, tmp_path / "tiny.zip")
    data, right = path.read_bytes(), Bundle.open(folder)
    wrong = 0
    for at in range(0, len(data), 17):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            with Bundle.open(path) as bundle:
                wrong += bundle.sha256 != right.sha256
        except BundleError:
            pass
    assert wrong == 0
    for length in range(0, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError):
            Bundle.open(path)


def test_an_encrypted_or_odd_zip(folder: Path, tmp_path: Path) -> None:
    path = _zip(folder, tmp_path / "tiny.zip", packing=zipfile.ZIP_BZIP2)
    with pytest.raises(BundleError, match="other than deflate"):
        Bundle.open(path)
    path = _zip(folder, tmp_path / "tiny.zip")
    data = bytearray(path.read_bytes())
    at = data.rindex(GRAPH.encode()) - 46
    data[at + 8] |= 1  # the flag of encryption
    path.write_bytes(data)
    with pytest.raises(BundleError, match="is encrypted"):
        Bundle.open(path)
