"""Temporary folders: one's own, and gone in the end, also those of programs that were killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from flowship.runtime import Bundle, BundleError, UsageError, bundle_zip, locks
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.locks import private_folder

OPENER = """
import sys, time
from flowship.runtime import Bundle

with Bundle.open(sys.argv[1]) as bundle:
    print(bundle.root, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in EMBEDDED.rglob("*"):
            archive.write(file, file.relative_to(EMBEDDED))
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_private_folder(temporary: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == temporary
        if os.name != "nt":
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE(Path(f"{folder}.lock").stat().st_mode) == 0o600
        (folder / "x").write_text("mine")
        with private_folder() as other:
            assert other != folder
        assert (folder / "x").read_text() == "mine"  # whoever lives is left alone
    assert _names(temporary) == []
    with pytest.raises(KeyboardInterrupt), private_folder():
        raise KeyboardInterrupt
    assert _names(temporary) == []


def test_the_copy_of_a_zip_goes_with_its_bundle(temporary: Path, zipped: Path) -> None:
    with Bundle.open(zipped) as bundle:
        assert bundle.root.parent == temporary.resolve()
        assert bundle.verify() == []
    assert _names(temporary) == []
    dropped = Bundle.open(zipped)
    assert len(_names(temporary)) == 2
    del dropped
    assert _names(temporary) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows")
def test_the_copy_of_a_killed_program_goes_later(temporary: Path, zipped: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", OPENER, str(zipped)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as opener:
        assert opener.stdout
        copy = Path(opener.stdout.readline().strip())
        Bundle.open(zipped).close()
        assert (copy / "manifest.json").is_file()  # it lives
        opener.send_signal(signal.SIGKILL)
    assert copy.is_dir()
    Bundle.open(zipped).close()
    assert _names(temporary) == []


def test_what_others_left_is_not_touched(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder for everybody: links, other users' folders, and names that are not ours."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    link = temporary / "flowship-1-aaaaaaaa"
    link.symlink_to(precious)
    Path(f"{link}.lock").touch()
    (temporary / "flowship-2-bbbbbbbb.lock").symlink_to(precious / "thesis.txt")
    (temporary / "flowship-2-bbbbbbbb").mkdir()
    (temporary / "flowship-mine").mkdir()
    (temporary / "flowship-mine.lock").touch()
    kept = {"flowship-1-aaaaaaaa", *_names(temporary)[2:]}
    with private_folder():
        pass
    assert set(_names(temporary)) == kept
    assert _names(precious) == ["thesis.txt"]
    foreign = temporary / "flowship-3-cccccccc"
    foreign.mkdir()
    Path(f"{foreign}.lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_is_foreign", lambda status: True)
        with private_folder():
            pass
    assert foreign.is_dir()
    with private_folder():
        pass
    assert not foreign.exists()


def test_a_disk_without_locks(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object) -> bool:
        raise OSError("no locks available")

    monkeypatch.setattr(locks, "_try_lock", fail)
    left = temporary / "flowship-1-aaaaaaaa"
    left.mkdir()
    Path(f"{left}.lock").touch()
    with private_folder() as folder:
        (folder / "x").touch()
    assert _names(temporary) == [left.name, f"{left.name}.lock"]


def test_no_place_for_temporary_files(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(UsageError, match=r"No usable temporary .* in the variable TMPDIR"):
        Bundle.open(zipped)


def test_a_full_disk_names_the_place(
    temporary: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract(_: object, __: object, path: Path, ___: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bundle_zip, "_extract", extract)
    with pytest.raises(BundleError, match=r"zip: unpacking it stopped at .*temporary.*: No sp"):
        Bundle.open(zipped)
    assert _names(temporary) == []
