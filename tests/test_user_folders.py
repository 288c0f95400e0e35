"""No home, or one that may not be entered: settings and caches are none, and all else works."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from command_line import Terminal

from flowship.benchmarks.synthetic_models import synthetic_bundle
from flowship.runtime import UsageError, user_folders
from flowship.runtime.engines.executorch_shim.build import Wheel, find_library
from flowship.runtime.progress import ProgressLine
from flowship.runtime.saved_plans import load_saved_plan, plans_folder
from flowship.runtime.user_folders import make_user_folder, user_folder

TOP = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME")


@pytest.fixture(params=["unknown", "a file", "forbidden"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Homes of which nothing can be had."""
    kind: str = request.param
    for variable in TOP:
        monkeypatch.delenv(variable, raising=False)
    if kind == "unknown":

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
        return kind
    place = tmp_path / "home"
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("USERPROFILE", str(place))
    if kind == "a file":
        place.touch()
        return kind
    place.mkdir()  # rights of folders do not bind root, who may run this
    real_open, real_mkdir = Path.open, Path.mkdir

    def refuse(path: Path) -> None:
        if path.is_relative_to(place):
            raise PermissionError(13, "Permission denied", str(path))

    def guarded_open(self: Path, *rest: object, **named: object) -> object:
        refuse(self)
        return real_open(self, *rest, **named)  # type: ignore[call-overload]

    def guarded_mkdir(self: Path, *rest: object, **named: object) -> None:
        refuse(self)
        real_mkdir(self, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", guarded_open)
    monkeypatch.setattr(Path, "mkdir", guarded_mkdir)
    return kind


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    return Terminal(capsys)


def test_pictures_need_no_home(home: str, terminal: Terminal, tmp_path: Path) -> None:
    for words in ((), ("--plan", "default")):
        terminal.ok("generate", *words, "-o", tmp_path / "x.png")
    assert load_saved_plan("0" * 64, "onnx", "fp32", "cpu") is None
    assert find_library(Wheel("1.5.0", tmp_path)) is None


def test_what_writes_there_is_refused_before_the_work(home: str, terminal: Terminal) -> None:
    refused = terminal.refused("plan", "--threads", "1", "--save")
    assert "no place for settings" in refused and "in the variable XDG_CONFIG_HOME" in refused
    refused = terminal.refused("plan", "--threads", "1", "--pack-weights")
    assert "no place for caches" in refused and "in the variable XDG_CACHE_HOME" in refused
    with pytest.raises(UsageError, match="in the variable XDG_CACHE_HOME"):
        make_user_folder("caches")


def test_published_sizes_are_kept_among_the_caches(home: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="in the variable XDG_CACHE_HOME"):
        synthetic_bundle("tarflow-tiny", ["onnx"], [None], ProgressLine(enabled=False))


def test_the_variables_name_other_places(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path.cwd().root
    for variable in TOP:
        monkeypatch.setenv(variable, place)
    assert user_folder("settings") == user_folder("caches") == Path(place, "flowship")
    assert plans_folder() == Path(place, "flowship", "plans")


def test_a_relative_place_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG Base Directory Specification: all paths must be absolute, others are to be ignored."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "settings")
    assert user_folder("settings") == tmp_path / ".config" / "flowship"


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert make_user_folder("caches", "packed") == tmp_path / "flowship" / "packed"

    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(user_folders, "try_writing", refuse)
    with pytest.raises(UsageError, match=r"packed: no place for caches \(Permission denied\)"):
        make_user_folder("caches", "packed")


def test_a_full_disk_is_no_matter_of_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, **_: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match=r"No space left on device: .*flowship"):
        make_user_folder("caches")


def test_a_saved_plan_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = make_user_folder("settings", "plans")
    (folder / f"{'0' * 16}-onnx-fp32-cpu.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(Exception, match=r"json is damaged .* remove it and plan again"):
        load_saved_plan("0" * 64, "onnx", "fp32", "cpu")
