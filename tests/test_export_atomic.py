"""An export is whole or not there, whenever it is killed; and it always makes the same files."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import CONDITIONAL, UNCONDITIONAL, Exporter, golden_model

from flowship.export.pipeline import export_checkpoint
from flowship.export.request import ExportRequest
from flowship.runtime import Bundle, BundleError
from flowship.runtime.atomic import atomic_folder
from flowship.runtime.progress import ProgressLine

TINY = golden_model(UNCONDITIONAL).checkpoint

# Exports, and stops for good when the progress line begins with the given words.
STOPPING = """
import sys, time
from pathlib import Path
from flowship.export.pipeline import export_checkpoint
from flowship.export.request import ExportRequest
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

request = ExportRequest(replace=True)
export_checkpoint(Path(checkpoint), Path(output), request, Stopping(enabled=False))
"""
MOMENTS = ("converting block0", "checking block", "golden pictures", "syncing")


def _export(output: Path) -> None:
    export_checkpoint(TINY, output, ExportRequest(replace=True), ProgressLine(enabled=False))


def _kill_at(moment: str, output: Path) -> None:
    command = [sys.executable, "-c", STOPPING, str(TINY), str(output), moment]
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
    _export(folder)
    return _contents(folder)


@pytest.fixture
def other(exported: Exporter) -> Path:
    """The bundle of another checkpoint."""
    return exported(golden_model(CONDITIONAL).checkpoint)


def test_a_killed_export_leaves_no_bundle(tmp_path: Path, whole: dict[str, str]) -> None:
    target = tmp_path / "x.flowship"
    for moment in MOMENTS:
        _kill_at(moment, target)
        assert not target.exists(), moment
        left = [path.name for path in tmp_path.iterdir()]
        assert left  # it was in the middle of its work
        assert all(name.startswith(".x.flowship.partial-") for name in left)
    _export(target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.flowship"]
    assert _contents(target) == whole


def test_a_killed_export_leaves_the_old_bundle(
    tmp_path: Path, other: Path, whole: dict[str, str]
) -> None:
    target = tmp_path / "x.flowship"
    shutil.copytree(other, target)
    _kill_at("golden pictures", target)
    assert _contents(target) == _contents(other)
    with Bundle.open(target) as bundle:
        assert bundle.verify() == []
    # Between two renames there is none for a moment; the next program brings it back.
    _kill_at("renaming", target)
    assert not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(target):
        raise ZeroDivisionError
    assert _contents(target) == _contents(other)
    # An export over it reuses nothing of it.
    (target / "litter.bin").touch()
    _export(target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.flowship"]
    assert _contents(target) == whole


def test_kill_at_any_moment_of_the_command(tmp_path: Path) -> None:
    """A moment that nobody chose; whatever is there loads."""
    target = tmp_path / "x.flowship"
    command = [sys.executable, "-m", "flowship.runtime", "export", str(TINY), "-o", str(target)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with process:
        while not any(tmp_path.glob(".x.flowship.partial-*/arrays")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not target.exists()
    for path in tmp_path.glob(".x.flowship.partial-*"):
        if path.is_dir():
            with pytest.raises(BundleError), Bundle.open(path):
                pass


def test_export_is_deterministic(tmp_path: Path, whole: dict[str, str]) -> None:
    """Another process, with another hash seed, writes the same bytes, manifest included."""
    output = tmp_path / "x.flowship"
    command = [sys.executable, "-m", "flowship.runtime", "export", str(TINY), "-q"]
    subprocess.run([*command, "-o", str(output)], check=True, stdout=subprocess.DEVNULL)
    assert _contents(output) == whole
