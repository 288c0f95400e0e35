"""Output is whole or not there: after errors, and after kill -9 at any moment."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal

from flowship.runtime.atomic import (
    atomic_file,
    atomic_folder,
    check_file,
    check_folder,
    try_writing,
)
from flowship.runtime.errors import UsageError
from flowship.runtime.pictures import write_array

# Replaces a bundle over and over; all files of a version hold its number. The process group is
# killed from outside.
WRITER = """
import json, sys
from pathlib import Path
from flowship.runtime.atomic import atomic_folder

for version in range(10**9):
    with atomic_folder(sys.argv[1]) as folder:
        for name in ("a", "b", "c"):
            (folder / name).write_text(str(version))
        (folder / "sub").mkdir()
        (folder / "sub" / "d").write_text(str(version))
        (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "v": version}))
    print(version, flush=True)
"""

HOLDER = """
import sys, time
from flowship.runtime.atomic import atomic_folder

with atomic_folder(sys.argv[1]) as folder:
    (folder / "x").write_text("mine")
    print(folder, flush=True)
    time.sleep(3600)
"""


def _bundle(folder: Path, version: int = 1) -> None:
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "v": version}))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- files --------------------------------------------------------------------------------------


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    for content in (b"first", b"second"):
        with atomic_file(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert _names(tmp_path) == ["out.bin"]


def test_a_failed_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["out.bin"]


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_wrong_places_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder: name a file"), atomic_file(tmp_path):
        pass
    with (
        pytest.raises(UsageError, match=r"the folder .*nowhere does not exist"),
        atomic_file(tmp_path / "nowhere" / "x"),
    ):
        pass


def test_devices_and_pipes_are_written_directly(tmp_path: Path) -> None:
    device = os.stat(os.devnull)
    with atomic_file(os.devnull) as file:
        file.write(b"gone")
    assert os.stat(os.devnull).st_ino == device.st_ino
    code = (
        "from flowship.runtime.atomic import atomic_file\n"
        "with atomic_file('/dev/stdout') as file:\n"
        "    file.write(b'hello')\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert found.stdout == b"hello"


# ---- folders ------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    target = tmp_path / "x.flowship"
    for version in (1, 2):
        with atomic_folder(target) as folder:
            assert folder.parent == tmp_path
            assert folder.name.startswith(".x.flowship.partial-")
            _bundle(folder, version)
            if version == 1:
                (folder / "only-in-1").touch()
        assert json.loads((target / "manifest.json").read_text())["v"] == version
    assert _names(target) == ["manifest.json"]
    assert _names(tmp_path) == ["x.flowship"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with atomic_folder(tmp_path / "x") as folder:
        _bundle(folder)
    assert _names(tmp_path / "x") == ["manifest.json"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with atomic_folder(target) as folder:
        _bundle(folder)
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        _bundle(folder, 2)
        raise ZeroDivisionError
    assert json.loads((target / "manifest.json").read_text())["v"] == 1
    assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize("manifest", [None, "not json", "[]", '{"name": "a web app"}'])
def test_nothing_else_is_replaced(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("my only copy")
    if manifest:
        (tmp_path / "x" / "manifest.json").write_text(manifest)
    with (
        pytest.raises(UsageError, match="is a folder with other things in it"),
        atomic_folder(tmp_path / "x"),
    ):
        raise AssertionError("the work must not begin")
    assert (tmp_path / "x" / "thesis.txt").exists()
    assert _names(tmp_path) == ["x"]


def test_wrong_places_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file: choose"), atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(UsageError, match="does not exist"), atomic_folder(tmp_path / "no" / "x"):
        pass


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="other things in it"),
        atomic_folder(tmp_path / "x") as folder,
    ):
        _bundle(folder)
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "thesis.txt").touch()
    assert _names(tmp_path) == ["x"]
    assert _names(tmp_path / "x") == ["thesis.txt"]


def test_names_with_wildcards(tmp_path: Path) -> None:
    (tmp_path / ".b.partial-1-aa.lock").touch()
    with atomic_folder(tmp_path / "[ab]*") as folder:
        _bundle(folder)
    assert _names(tmp_path) == [".b.partial-1-aa.lock", "[ab]*"]


def test_an_old_bundle_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """As after a kill between the two renames."""
    old = tmp_path / ".x.partial-1-aa.old"
    old.mkdir()
    _bundle(old, 7)
    (tmp_path / ".x.partial-1-aa").mkdir()
    (tmp_path / ".x.partial-1-aa.lock").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "x"):
        raise ZeroDivisionError
    assert json.loads((tmp_path / "x" / "manifest.json").read_text())["v"] == 7
    assert _names(tmp_path) == ["x"]


def test_what_a_living_program_writes_is_kept(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    with holder, holder.stdout:
        theirs = Path(holder.stdout.readline().strip())
        with atomic_folder(tmp_path / "x") as folder:
            _bundle(folder)
        assert (theirs / "x").read_text() == "mine"
        holder.kill()
        holder.wait()
    with atomic_folder(tmp_path / "x") as folder:
        _bundle(folder, 2)
    assert _names(tmp_path) == ["x"]


def test_a_place_is_tried_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a program that is killed meanwhile, where the system has files without names."""
    with monkeypatch.context() as patch:
        if hasattr(os, "O_TMPFILE"):
            patch.setattr("flowship.runtime.atomic.unused_name", None)  # no name is asked for
        try_writing(tmp_path)
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    try_writing(tmp_path)
    assert _names(tmp_path) == []
    with pytest.raises(OSError, match="nowhere"):
        try_writing(tmp_path / "nowhere")


def test_kill_at_any_moment(tmp_path: Path) -> None:
    target, chance = tmp_path / "x.flowship", random.Random(0)
    last = found = 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        with writer, writer.stdout:
            writer.stdout.readline()  # it is in its loop
            time.sleep(chance.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            last = max([0, *map(int, writer.stdout.read().split())])
        if not target.exists():
            continue
        found += 1
        version = json.loads((target / "manifest.json").read_text())["v"]
        assert version >= last
        assert _names(target) == ["a", "b", "c", "manifest.json", "sub"]
        for name in ("a", "b", "c", "sub/d"):
            assert (target / name).read_text() == str(version)
    assert found
    with atomic_folder(target) as folder:
        _bundle(folder)
    assert _names(tmp_path) == ["x.flowship"]


# ---- disks that cannot sync, are full or broken -------------------------------------------------

UNABLE = ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EPERM", "EACCES", "EBADF", "EISDIR"]
BROKEN = ["EIO", "ENOSPC", "EDQUOT"]


def _failing_sync(monkeypatch: pytest.MonkeyPatch, number: int, *, folders: bool) -> None:
    """fsync of folders, or of files, fails."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def _write_both(place: Path) -> None:
    with atomic_file(place / "x.png") as file:
        file.write(b"picture")
    with atomic_folder(place / "x.flowship") as folder:
        _bundle(folder)


@pytest.mark.parametrize("folders", [True, False])
@pytest.mark.parametrize("name", UNABLE)
def test_a_disk_that_cannot_sync_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folders: bool
) -> None:
    _failing_sync(monkeypatch, getattr(errno, name), folders=folders)
    for _ in range(2):  # what is there is replaced too
        _write_both(tmp_path)
    assert _names(tmp_path) == ["x.flowship", "x.png"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written to: a drop box."""
    real = os.open

    def refuse(path: str | Path, flags: int, *rest: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    _write_both(tmp_path)
    assert _names(tmp_path) == ["x.flowship", "x.png"]


@pytest.mark.parametrize("folders", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_full_disk_is_an_error_that_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folders: bool
) -> None:
    _failing_sync(monkeypatch, getattr(errno, name), folders=folders)
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "x.png") as file:
        file.write(b"picture")
    assert caught.value.errno == getattr(errno, name)
    assert caught.value.filename == str(tmp_path if folders else tmp_path / "x.png")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "x.flowship") as folder:
        _bundle(folder)
    assert caught.value.errno == getattr(errno, name)
    assert str(caught.value.filename).startswith(str(tmp_path / "x.flowship"))


def test_errors_of_writing_name_what_was_asked_for(tmp_path: Path) -> None:
    """write() does not know its file, and nobody knows the name of a partial one."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "x.png"):
        raise full
    assert caught.value.filename == str(tmp_path / "x.png")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "x.flowship"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.flowship")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "x.flowship") as folder:
        (folder / "no" / "such.bin").write_bytes(b"")
    assert caught.value.filename == str(tmp_path / "x.flowship" / "no" / "such.bin")
    assert _names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device(flowship: Terminal, tmp_path: Path) -> None:
    refused = flowship.refused("generate", "-q", "-o", "/dev/full", status=1)
    assert refused == "flowship generate: /dev/full: No space left on device\n"
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_array("/dev/full", np.zeros(10**5, np.float32))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, even of root")
def test_places_that_cannot_be_written_to(flowship: Terminal) -> None:
    refused = "/proc/x.png cannot be written: .* in the folder /proc"
    for check in (check_file, check_folder):
        with pytest.raises(UsageError, match=refused):
            check("/proc/x.png")
    with pytest.raises(UsageError, match=refused), atomic_folder("/proc/x.png"):
        raise AssertionError("the work must not begin")
    with pytest.raises(OSError, match=r"'/proc/x\.png'"), atomic_file("/proc/x.png"):
        raise AssertionError("the work must not begin")
    assert "cannot be written" in flowship.refused("generate", "-o", "/proc/x.png")


def test_a_full_disk_is_no_wrong_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*'") as caught:
        check_file(tmp_path / "x.png")
    assert not isinstance(caught.value, UsageError)
