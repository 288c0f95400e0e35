"""Peak memory of artifacts: measured in a process of its own, kept in the manifest, shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Terminal
from conftest import CONDITIONAL, Exporter, golden_model

from flowship.runtime import Bundle, EngineError
from flowship.runtime.manifest import Manifest
from flowship.runtime.peak_memory import PeakTask, measure_peak

PRECISIONS = ("fp32", "int8", "int4")  # a bundle that other tests export too
unmeasured_on_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="needs psutil, which is not in every installation"
)


@pytest.fixture(scope="module")
def bundle(exported: Exporter) -> Path:
    return exported(golden_model(CONDITIONAL).checkpoint, ("onnx",), PRECISIONS)


PEAKS = """
from flowship.runtime.peak_memory import peak_bytes
before = peak_bytes()
b'x' * (before + 32_000_000)  # zeros would not take memory until they are touched
after = peak_bytes()
print(before, after)
"""


@unmeasured_on_windows
def test_the_peak_remembers_what_is_gone() -> None:
    run = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, check=True)
    before, after = map(int, run.stdout.split())
    assert 10e6 < before < 250e6
    assert before + 30e6 < after < 3 * before + 50e6


@unmeasured_on_windows
@pytest.mark.parametrize("patches", [None, 6], ids=["a picture", "the first patches"])
def test_a_process_of_its_own(bundle: Path, patches: int | None) -> None:
    """This one has torch in memory (300 MB and more), which the other must not count."""
    found = measure_peak(PeakTask(str(bundle), "onnx", "int4", patches))
    assert found is not None and 20e6 < found < 250e6


@unmeasured_on_windows
def test_export_keeps_it(bundle: Path, exported: Exporter) -> None:
    with Bundle.open(bundle) as opened:
        found = [quality.peak_memory_bytes for quality in opened.manifest.quality]
    assert len(found) == len(PRECISIONS)
    assert all(peak is not None and 20e6 < peak < 250e6 for peak in found)
    assert all(peak is not None and peak % 10_000_000 == 0 for peak in found)
    float_only = exported(golden_model(CONDITIONAL).checkpoint)
    with Bundle.open(float_only) as opened:  # the same bytes every time: nothing is measured
        assert opened.manifest.quality[0].peak_memory_bytes is None


def test_engines_that_check_files_have_none(bundle: Path) -> None:
    assert measure_peak(PeakTask(str(bundle), "coreml-interpreter", "int4", None)) is None


def test_a_process_that_fails(bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"peak memory of onnx int3 failed: .*int3"):
        measure_peak(PeakTask(str(bundle), "onnx", "int3", None))


def test_a_bundle_without_it_loads_and_is_shown(flowship: Terminal, bundle: Path) -> None:
    text = json.loads((bundle / "manifest.json").read_text())
    for quality in text["quality"]:
        del quality["peak_memory_bytes"]
    assert Manifest.loads(json.dumps(text)).quality[0].peak_memory_bytes is None
    text["quality"][0]["peak_memory_bytes"] = "much"
    with pytest.raises(Exception, match=r"peak_memory_bytes: expected an integer, got 'much'"):
        Manifest.loads(json.dumps(text))


@unmeasured_on_windows
def test_tables_show_it(flowship: Terminal, bundle: Path) -> None:
    for command in (("inspect", bundle), ("compare", bundle, "-n", 1, "-q")):
        found = flowship(*command)
        assert found.status == 0, found.err
        lines = found.out.splitlines()
        header = next(line for line in lines if "peak memory" in line)
        column = header.index("peak memory")
        cells = [line[column : column + 11] for line in lines[lines.index(header) + 1 :][:3]]
        assert all(cell.strip().endswith("MB") for cell in cells), cells
