"""An export is whole or not there, whenever it is killed; and it always makes the same files."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from conftest import CONDITIONAL, UNCONDITIONAL, golden_model

from flowship.export.pipeline import ExportRequest, export_checkpoint
from flowship.runtime import Bundle, Flow
from flowship.runtime.progress import ProgressLine

TINY = golden_model(UNCONDITIONAL).checkpoint
OTHER = golden_model(CONDITIONAL).checkpoint

# Exports, and stops for good when the progress line begins with the given words.
STOPPING = """
import sys, time
from pathlib import Path
from flowship.export.pipeline import ExportRequest, export_checkpoint
from flowship.runtime import atomic
from flowship.runtime.progress import ProgressLine

checkpoint, output, moment = sys.argv[1:]

def stop():
    print("stopped", flush=True)
    time.sleep(600)

class Stopping(ProgressLine):
    def update(self, fraction, text):
        if text.startswith(moment):
            stop()

if moment == "renaming":  # an old bundle has been moved aside, the new one has no name yet
    rename = Path.rename
    def rename_then_stop(self, target):
        rename(self, target)
        if str(target).endswith(".old"):
            stop()
    Path.rename = rename_then_stop
elif moment == "syncing":
    atomic._sync_tree = lambda folder: stop()

export_checkpoint(Path(checkpoint), Path(output), ExportRequest(), Stopping(enabled=False))
"""
MOMENTS = ("converting block0", "checking block", "decoding pictures", "golden pictures", "syncing")


def _export(checkpoint: Path, output: Path, request: ExportRequest | None = None) -> None:
    export_checkpoint(checkpoint, output, request or ExportRequest(), ProgressLine(enabled=False))


def _kill_at(moment: str, checkpoint: Path, output: Path) -> None:
    command = [sys.executable, "-c", STOPPING, str(checkpoint), str(output), moment]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process, process.stdout:
        assert process.stdout.readline() == "stopped\n", moment
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def _contents(folder: Path) -> dict[str, str]:
    """Hash of every file by its path."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed export of the checkpoint writes."""
    folder = tmp_path_factory.mktemp("whole") / "x.flowship"
    _export(TINY, folder)
    return _contents(folder)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_export_leaves_no_bundle(
    moment: str, tmp_path: Path, whole: dict[str, str]
) -> None:
    target = tmp_path / "x.flowship"
    _kill_at(moment, TINY, target)
    assert not target.exists()
    left = [path.name for path in tmp_path.iterdir()]
    assert left  # it was in the middle of its work
    assert all(name.startswith(".x.flowship.partial-") for name in left)
    _export(TINY, target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.flowship"]
    assert _contents(target) == whole


def test_a_killed_export_leaves_the_old_bundle(tmp_path: Path, whole: dict[str, str]) -> None:
    target = tmp_path / "x.flowship"
    _export(TINY, target)
    for moment in ("converting block0", "golden pictures"):
        _kill_at(moment, OTHER, target)
        assert _contents(target) == whole
    with Bundle.open(target) as bundle:
        assert bundle.verify() == []
    _kill_at("renaming", OTHER, target)  # for a moment there is none; it is brought back
    _export(TINY, tmp_path / "y.flowship")
    assert not target.exists()
    _export(TINY, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.flowship", "y.flowship"]
    assert _contents(target) == whole


def test_kill_at_any_moment_of_the_command(tmp_path: Path) -> None:
    """Moments that nobody chose; whatever is there loads."""
    target = tmp_path / "x.flowship"
    command = [sys.executable, "-m", "flowship.runtime", "export", str(TINY), "-o", str(target)]
    for seconds in (1.5, 2.5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with process:
            time.sleep(seconds)
            process.kill()
        if target.exists():
            with Bundle.open(target) as bundle:
                assert bundle.verify() == []


def test_nothing_stale_is_reused(tmp_path: Path) -> None:
    """Neither files of the bundle that was there, nor what the last export computed."""
    target = tmp_path / "x.flowship"
    _export(OTHER, target)
    (target / "litter.bin").touch()
    _export(TINY, target)
    _export(TINY, tmp_path / "fresh.flowship")
    assert _contents(target) == _contents(tmp_path / "fresh.flowship")


def test_the_same_name_with_other_weights_is_another_bundle(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shutil.copy(OTHER, first / "model.pth")
    shutil.copy(TINY, second / "model.pth")
    target, shapes = tmp_path / "x.flowship", []
    for folder in (first, second):
        _export(folder / "model.pth", target)
        with Flow.open(target) as flow:
            shapes.append(np.shape(flow.generate(seed=1)))
    assert shapes == [(1, 3, 16, 16), (1, 3, 8, 8)]


def test_export_is_deterministic_across_processes(tmp_path: Path, whole: dict[str, str]) -> None:
    """Another process, with another hash seed, writes the same bytes, manifest included."""
    command = [sys.executable, "-m", "flowship.runtime", "export", str(TINY), "-q"]
    subprocess.run(
        [*command, "-o", str(tmp_path / "x.flowship")], check=True, stdout=subprocess.DEVNULL
    )
    assert _contents(tmp_path / "x.flowship") == whole
