"""Without the packages of an extra: what to install is said at once, and help always works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Terminal
from conftest import UNCONDITIONAL, golden_model

from flowship.runtime import EngineError, MissingExtraError, cli
from flowship.runtime.engines import onnxruntime_import
from flowship.runtime.extras import EXTRAS, is_installed

# The first word says which packages are not there; calls follow, each between "--".
WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocker())
from flowship.runtime.cli import main

for call in " ".join(sys.argv[2:]).split(" -- "):
    print("status", main(call.split()), flush=True)
    print("of", call, file=sys.stderr, flush=True)
"""
CHECKPOINT = golden_model(UNCONDITIONAL).checkpoint
EXPORT = f"export {CHECKPOINT} -o x.flowship"


def _without(packages: str, folder: Path, *calls: str) -> tuple[list[str], str]:
    """Exit statuses and all of stderr."""
    command = [sys.executable, "-c", WITHOUT, packages, " -- ".join(calls)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert list(folder.iterdir()) == []
    statuses = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("status")]
    return statuses, ran.stderr


@pytest.mark.parametrize("packages", [",".join(EXTRAS), "uvicorn", "onnx", "onnxruntime"])
def test_help_needs_no_extra(packages: str, tmp_path: Path) -> None:
    calls = ["--help", *(f"{command} --help" for command in cli.COMMANDS)]
    statuses, _ = _without(packages, tmp_path, *calls)
    assert statuses == ["0"] * len(calls)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    wanted = {
        "serve": "starlette, which is not installed: pip install 'flowship[serve]'",
        EXPORT: "torch, which is not installed: pip install 'flowship[export]'",
        f"inspect {CHECKPOINT}": "'flowship[export]'",
        "generate": "onnxruntime, which is not installed: pip install 'flowship[onnx]'",
        "score embedded x.png": "'flowship[onnx]'",
        "plan": "'flowship[onnx]'",
        "interpolate --seeds 1,2": "'flowship[onnx]'",
        "compare embedded": "has nothing that runs here (onnx fp32: pip install 'flowship[onnx]')",
        "bench --no-limits": "'flowship[onnx]'",
        "bench --model tarflow-tiny": "'flowship[export]'",
        "bench predict --model tarflow-tiny": "'flowship[export]'",
        "bench predict --this-device": "'flowship[onnx]'",
    }
    statuses, said = _without(",".join(EXTRAS), tmp_path, *wanted)
    lines = [line for line in said.splitlines() if not line.startswith("of ")]
    assert set(statuses) <= {"1", "2"} and len(lines) == len(wanted), said
    for line, message in zip(lines, wanted.values(), strict=True):
        assert line.startswith("flowship ") and message in line


@pytest.mark.parametrize(
    ("package", "targets"),
    [("onnxruntime", "onnx"), ("onnx", "onnx"), ("coremltools", "onnx,coreml"),
     ("executorch", "executorch")],
)  # fmt: skip
def test_export_asks_before_it_begins(
    package: str, targets: str, flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert not is_installed(package)
    words = (*EXPORT.split(), "--targets", targets)
    line = flowship.refused(*words, status=1)
    assert f"package {package}, " in line and f"'flowship[{EXTRAS[package]}]'" in line


def test_a_server_of_which_half_is_missing(tmp_path: Path) -> None:
    statuses, said = _without("uvicorn", tmp_path, "serve")
    assert statuses == ["1"] and "needs the package uvicorn" in said


def test_a_package_that_is_there_and_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("DLL load failed")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(EngineError, match="is installed and cannot be loaded: DLL") as raised:
        onnxruntime_import.import_onnxruntime("the engine onnx")
    assert not isinstance(raised.value, MissingExtraError)
