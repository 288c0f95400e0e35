"""Paths of files to be read: what is wrong with one is said before a word about its contents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Terminal
from conftest import UNCONDITIONAL, golden_model

from flowship.runtime import UsageError
from flowship.runtime.input_paths import check_readable

CHECKPOINT = golden_model(UNCONDITIONAL).checkpoint
# Every command that reads a file, PATH being the one in question.
READERS = [
    "generate PATH",
    "generate --like PATH",
    "generate --noise PATH",
    "generate --plan PATH",
    "score embedded PATH",
    "encode embedded PATH -o z.npy",
    "decode embedded PATH -o x.npy",
    "interpolate --images PATH PATH",
    "inspect PATH",
    "verify PATH",
    "plan PATH",
    "compare PATH",
    "compare embedded --data PATH",
    "bench PATH",
    "bench --baseline PATH",
    "bench compare PATH PATH",
    "bench report PATH -o x.html",
    "bench predict PATH",
    "serve PATH",
    "export PATH",
    f"export {CHECKPOINT} --data PATH",
    f"export {CHECKPOINT} --label-names PATH",
]
TAKES_FOLDERS = ("BUNDLE", "score", "encode", "interpolate", "--data", "--baseline")


def _refused(flowship: Terminal, reader: str, path: str) -> str:
    ran = flowship(*(path if word == "PATH" else word for word in reader.split()))
    assert ran.status in (1, 2) and ran.out == "", ran
    assert ran.err.startswith("flowship") and ran.err.count("\n") == 1, ran.err
    return ran.err


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["nowhere.png", "nowhere.npz", "nowhere"])
def test_what_is_not_there(reader: str, name: str, flowship: Terminal) -> None:
    line = _refused(flowship, reader, name)
    assert name in line and "does not exist" in line and "Errno" not in line


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_name(reader: str, flowship: Terminal) -> None:
    """Such as a variable of a script that was not set."""
    line = _refused(flowship, reader, "")
    assert "name is empty" in line or "name of the bundle is empty" in line


@pytest.mark.parametrize(
    "reader",
    ["generate --like PATH", "generate --noise PATH", "generate --plan PATH",
     "decode embedded PATH -o x.npy", "bench compare PATH PATH", "bench report PATH -o x.html",
     f"export {CHECKPOINT} --label-names PATH"],
)  # fmt: skip
def test_a_folder_is_no_file(reader: str, flowship: Terminal) -> None:
    Path("folder").mkdir()
    assert "folder is a folder: name a file" in _refused(flowship, reader, "folder")


def test_kinds_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    for name, message in {
        "file/x": f"file/x does not exist: {tmp_path / 'file'} is a file",
        "link": "link is a link to nothing",
        "x" * 300: "cannot be read: File name too long",
        ".": "is a folder: name a file",
    }.items():
        with pytest.raises(UsageError, match=message):
            check_readable(tmp_path / name)
    check_readable(tmp_path, folder=True)
    with pytest.raises(UsageError, match="--data: the name is empty"):
        check_readable("", "--data")


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(UsageError, match=r"--like .*secret may not be read: permission denied"):
        check_readable(path, "--like")


@pytest.mark.skipif(os.name == "nt", reason="no pipes by name there")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_pipes_are_not_waited_for(flowship: Terminal, tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    command = ("generate", "--like") if suffix == ".png" else ("decode", "embedded", "-o", "x.npy")
    line = flowship.refused(*command, tmp_path / f"pipe{suffix}")
    assert "is not a regular file" in line
