"""Published sizes: a bounded check in place of whole pictures, within stated time and memory.

The default run forces that path on a tiny model. AFHQ-256 itself (463M random parameters; 4 GB on
disk, some minutes) and a block of 2.7 billion parameters (13 GB on disk, five minutes) run with
``pytest -m slow tests/test_full_size.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import CONDITIONAL, Exporter, GoldenModel, golden_model

from flowship.export import pipeline
from flowship.export.checkpoint import Checkpoint
from flowship.export.parity import fresh_noise
from flowship.export.pipeline import export_checkpoint
from flowship.export.reference import ReferenceBlock
from flowship.export.request import ExportRequest
from flowship.runtime import Flow, ParityError, verification
from flowship.runtime.bundle import Bundle
from flowship.runtime.engines import onnx, onnx_stage
from flowship.runtime.engines.base import Floats
from flowship.runtime.manifest import Manifest, Quality
from flowship.runtime.model import Model
from flowship.runtime.progress import ProgressLine
from flowship.runtime.spot_check import sample_prefixes
from flowship.runtime.verification import verify_bundle

FEW = 6  # patches of a spot check of a tiny model, which has 16


@pytest.fixture
def spot_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every model as a large one."""
    monkeypatch.setattr(pipeline, "FULL_CHECK_CALLS", 0)
    monkeypatch.setattr(verification, "QUICK_CALLS", 0)
    for module in (pipeline, verification):
        monkeypatch.setattr(module, "SPOT_PATCHES", FEW)


def export(golden: GoldenModel, output: Path, *precisions: str) -> Manifest:
    request = ExportRequest(precisions=precisions)
    return export_checkpoint(golden.checkpoint, output, request, ProgressLine(enabled=False))


# ---- a tiny model treated as a large one ---------------------------------------------------------


@pytest.mark.usefixtures("spot_checks")
def test_export_says_what_a_spot_check_ran(golden: GoldenModel, tmp_path: Path) -> None:
    manifest = export(golden, tmp_path / "spot.flowship")
    (quality,) = manifest.quality
    T, first = manifest.spec.image.num_patches, manifest.spec.ar_blocks[0].name
    assert quality.check == "spot"
    assert f"the first {FEW} of every block in windows" in quality.inputs
    assert f"all {T} of {first} in one call (W = T = {T})" in quality.inputs
    assert "denoising gradient of every block over all patches" in quality.inputs
    assert quality.max_abs_error <= 1e-4
    assert quality.relative_error is not None and quality.relative_error <= quality.max_abs_error
    assert quality.rms_error is not None and 0 < quality.rms_error < 1e-4
    assert quality.psnr_db is None and "PSNR" not in quality.inputs
    assert (quality.image_max_abs_error, quality.bits_per_dim) == (None, None)  # no whole pictures
    assert not manifest.golden.pictures


@pytest.mark.usefixtures("spot_checks")
@pytest.mark.parametrize("window", [2, 16], ids=["in a window", "in one call of all"])
def test_spot_check_refuses_a_wrong_graph(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of 1e-3 is in calls with one window length only."""
    right = onnx_stage.GqaStage.step

    def wrong(stage: onnx_stage.GqaStage, x: Floats, position: int) -> tuple[Floats, Floats]:
        xa, xb = right(stage, x, position)
        return xa, xb + np.float32(1e-3 * (x.shape[1] == window))

    monkeypatch.setattr(onnx_stage.GqaStage, "step", wrong)
    golden = golden_model(CONDITIONAL)
    words = r"block\d: relative error (1\.0.e-03|9\.9.e-04) .* threshold"
    with pytest.raises(ParityError, match=words):
        export(golden, tmp_path / "wrong.flowship")
    assert not (tmp_path / "wrong.flowship").exists()


@pytest.mark.usefixtures("spot_checks")
def test_verify_runs_the_first_patches_of_every_block(tmp_path: Path) -> None:
    manifest = export(golden_model(CONDITIONAL), tmp_path / "spot.flowship", "fp32", "fp16")
    T, blocks = manifest.spec.image.num_patches, len(manifest.spec.ar_blocks)
    with Bundle.open(tmp_path / "spot.flowship") as bundle:
        checks = {check.name: check for check in verify_bundle(bundle, threads=1)}
    assert all(check.passed for check in checks.values())
    for precision in ("fp32", "fp16"):
        detail = checks[f"onnx {precision} encode(decode(z))"].detail
        assert detail.startswith(f"first {FEW} of {T} patches of each of {blocks} blocks")
    assert "onnx fp16 agrees with onnx fp32" in checks


@pytest.mark.usefixtures("spot_checks")
def test_verify_fails_where_a_prefix_does_not_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(golden_model(CONDITIONAL), tmp_path / "spot.flowship")
    monkeypatch.setattr(verification, "ROUND_TRIP_LIMIT", {"fp32": 1e-12})
    with Bundle.open(tmp_path / "spot.flowship") as bundle:
        failed = [check for check in verify_bundle(bundle, threads=1) if check.passed is False]
    assert [check.name for check in failed] == ["onnx fp32 encode(decode(z))"]


def test_prefix_is_the_start_of_the_whole_block(exported: Exporter) -> None:
    """Sampling P patches gives the same bits as sampling all T."""
    with Flow.open(exported(golden_model(CONDITIONAL).checkpoint), threads=1) as flow:
        model = Model(flow.bundle, flow.engine)
        some, every = (list(sample_prefixes(model, n, seed=3)) for n in (FEW, 16))
    for short, long in zip(some, every, strict=True):
        np.testing.assert_array_equal(short.x, long.x[:, :FEW])
        assert max(short.error, long.error) <= 1e-5


def num_blocks_open(flow: Flow) -> int:
    assert isinstance(flow.engine, onnx.OnnxEngine)
    return len({artifact.stage for artifact in flow.engine._sessions})


def test_one_block_in_memory_gives_the_same_picture(
    exported: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exported(golden_model(CONDITIONAL).checkpoint)
    with Flow.open(bundle, threads=1) as flow:
        kept = flow.generate(seed=[1, 2], label=[0, 1], denoise=True).images
        assert num_blocks_open(flow) == 3
    monkeypatch.setattr(onnx, "resident_bytes", lambda: 0)
    with Flow.open(bundle, threads=1) as flow:
        images = flow.generate(seed=[1, 2], label=[0, 1], denoise=True).images
        assert num_blocks_open(flow) == 1
    np.testing.assert_array_equal(images, kept)


# ---- AFHQ-256 ------------------------------------------------------------------------------------

MAX_SECONDS, MAX_BYTES = 600, 4e9
INT4_BYTES = 6e9  # of memory, while weights of any size are exported to int4
NUM_PATCHES = 64  # sampled of every block


@dataclass(frozen=True)
class Run:
    """A finished command: wall seconds and peak resident bytes.

    Linux counts them in KiB, and includes what this process had before the command replaced it.
    """

    seconds: float
    peak_bytes: float


def measure(*command: str | Path) -> Run:
    """Run a module of the package in a process of its own; fails with it."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} exited with {process.returncode}"
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(time.monotonic() - start, unit * usage.ru_maxrss)


@dataclass(frozen=True)
class FullSize:
    checkpoint: Path
    bundle: Path
    export: Run


@pytest.fixture(scope="module")
def afhq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullSize]:
    folder = tmp_path_factory.mktemp("afhq256")
    measure("flowship.export.synthetic", "tarflow-afhq256", "-o", folder)
    (checkpoint,) = folder.glob("*.safetensors")
    bundle = folder / "afhq.flowship"
    yield FullSize(
        checkpoint,
        bundle,
        measure("flowship.runtime", "export", checkpoint, "-o", bundle, "--targets", "onnx"),
    )
    shutil.rmtree(folder)  # 3.7 GB, and pytest keeps the folders of three runs


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory comes from wait4")
def test_export_within_time_and_memory(afhq: FullSize) -> None:
    print(f"export: {afhq.export.seconds:.0f} s, peak {afhq.export.peak_bytes / 1e9:.2f} GB")
    assert afhq.export.seconds <= MAX_SECONDS
    assert afhq.export.peak_bytes <= MAX_BYTES
    with Bundle.open(afhq.bundle) as bundle:
        (quality,) = bundle.manifest.quality
    assert quality.check == "spot"
    assert "the first 80 of every block" in quality.inputs
    assert "(W = T = 1024)" in quality.inputs


@pytest.mark.slow
def test_first_patches_of_every_block(afhq: FullSize) -> None:
    with Flow.open(afhq.bundle) as flow:
        prefixes = list(sample_prefixes(Model(flow.bundle, flow.engine), NUM_PATCHES))
    assert len(prefixes) == 8
    assert max(prefix.error for prefix in prefixes) <= 1e-4
    for prefix in prefixes:
        assert prefix.x.shape == (1, NUM_PATCHES, 192)
        assert 0.5 < prefix.x.std() < 2  # neither died away nor exploded


@pytest.mark.slow
def test_one_call_of_all_patches_equals_torch(afhq: FullSize) -> None:
    """A flipped block with a class, unlike the one that the export checks so."""
    checkpoint = Checkpoint.open(afhq.checkpoint)
    T, D = checkpoint.config.num_patches, checkpoint.config.patch_dim
    block = next(block for block in checkpoint.config.flow_spec().ar_blocks if block.block == 3)
    x, label = fresh_noise(77, 1, T, D), 2
    with (
        Flow.open(afhq.bundle) as flow,
        Model(flow.bundle, flow.engine).stage(block, [label]) as stage,
    ):
        xa, xb = (part[0].copy() for part in stage.step(x, 0))
    reference = ReferenceBlock(checkpoint, block)
    wanted = reference.parameters(x, reference.context([label]))
    np.testing.assert_allclose(xa, wanted[0], atol=1e-4)
    np.testing.assert_allclose(xb, wanted[1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory comes from wait4")
@pytest.mark.parametrize("target", ["onnx", "executorch", "coreml"])
def test_int4_within_memory(afhq: FullSize, target: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "coreml": "coremltools"}.get(target, target))
    found, quality = export_int4(afhq.checkpoint, tmp_path / "int4.flowship", target)
    shutil.rmtree(tmp_path / "int4.flowship")
    assert found.peak_bytes <= INT4_BYTES
    assert quality.nbytes is not None and quality.nbytes <= 0.15 * afhq.checkpoint.stat().st_size


# ---- a block larger than memory ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory comes from wait4")
def test_a_block_of_10_gigabytes_within_6(tmp_path: Path) -> None:
    """One block of STARFlow's width, matrix by matrix, its denoising graph too."""
    measure("flowship.export.synthetic", "tarflow-starflow-width", "-o", tmp_path)
    (checkpoint,) = tmp_path.glob("*.safetensors")
    assert checkpoint.stat().st_size > 10.8e9
    found, quality = export_int4(checkpoint, tmp_path / "wide.flowship", "onnx")
    shutil.rmtree(tmp_path)  # 12.4 GB
    assert found.peak_bytes <= INT4_BYTES
    assert "denoising gradient of every block" in quality.inputs
    assert quality.peak_memory_bytes is not None and quality.peak_memory_bytes <= INT4_BYTES


def export_int4(checkpoint: Path, bundle: Path, target: str) -> tuple[Run, Quality]:
    """Export by the command; says what it took."""
    command = ("flowship.runtime", "export", checkpoint, "-o", bundle, "--targets", target)
    found = measure(*command, "--precision", "int4", "-q")
    print(f"{target} int4: {found.seconds:.0f} s, peak {found.peak_bytes / 1e9:.2f} GB")
    (quality,) = Manifest.loads((bundle / "manifest.json").read_text()).quality
    assert (quality.precision, quality.check, quality.method) == ("int4", "spot", "rtn")
    return found, quality
