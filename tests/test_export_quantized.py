"""Export with smaller weights: what the manifest says of them, limits, refusals, the search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import Terminal
from conftest import CONDITIONAL, UNCONDITIONAL, Exporter, golden_model

from flowship.export import pipeline
from flowship.export.families.tarflow import TarFlowConfig
from flowship.export.pipeline import run_export
from flowship.export.request import ExportRequest, plan_jobs
from flowship.export.synthetic import write_checkpoint
from flowship.export.targets import TargetOptions
from flowship.runtime import Bundle, ParityError, UsageError
from flowship.runtime.hashing import sha256_of
from flowship.runtime.manifest import Manifest, Quality
from flowship.runtime.plan import PLAN, PlanFile
from flowship.runtime.progress import ProgressLine
from flowship.runtime.spec import TrainingNoise
from flowship.runtime.verification import verify_bundle

TINY = golden_model(UNCONDITIONAL).checkpoint
PRECISIONS = ("fp32", "int8", "int4")
NO_DENOISE = TargetOptions(denoise=False)


@pytest.fixture(scope="module")
def bundle(exported: Exporter) -> Path:
    return exported(golden_model(CONDITIONAL).checkpoint, ("onnx",), PRECISIONS)


def _quality(path: Path) -> dict[str, Quality]:
    with Bundle.open(path) as bundle:
        return {q.precision: q for q in bundle.manifest.quality}


def _export(output: Path, **wishes: object) -> Manifest:
    request = ExportRequest(**wishes)  # type: ignore[arg-type]
    return run_export(TINY, output, request, ProgressLine(enabled=False)).manifest


def test_every_quantized_artifact_carries_its_damage(bundle: Path) -> None:
    found = _quality(bundle)
    assert list(found) == list(PRECISIONS)
    for quality in found.values():
        low, high = quality.bits_per_dim_change_low, quality.bits_per_dim_change_high
        assert low is not None and high is not None and quality.bits_per_dim_change is not None
        assert low <= quality.bits_per_dim_change <= high
        assert quality.round_trip_error is not None and quality.nbytes
        assert "8 pictures of the model itself" in (quality.bits_per_dim_inputs or "")
    sizes = [quality.nbytes or 0 for quality in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert found["fp32"].method is None and found["fp32"].formats is None
    assert (found["int4"].method or "").startswith("gptq on 8 pictures of the model itself")


def test_rounding_floors_are_in_the_plan(bundle: Path) -> None:
    profile = PlanFile.loads((bundle / PLAN).read_text()).profile
    assert profile and set(profile.floors) == {f"onnx {precision}" for precision in PRECISIONS}


def test_quantized_bundles_verify(bundle: Path) -> None:
    checks = list(verify_bundle(Bundle.open(bundle)))
    assert [check for check in checks if check.passed is False] == []
    assert sum("golden picture" in check.name for check in checks) >= len(PRECISIONS)


def test_wrong_scales_are_caught_although_the_hash_is_right(bundle: Path, tmp_path: Path) -> None:
    """Round trips hold with any weights; the golden pictures do not."""
    broken = tmp_path / "broken.flowship"
    shutil.copytree(bundle, broken)
    path = broken / "onnx/int8/block0.weights.bin"
    values = np.fromfile(path, "<f4")
    scales = (np.abs(values) > 1e-4) & (np.abs(values) < 1e-1)
    values[scales] *= 2  # floats of this size are scales and biases; codes seldom look like them
    values.tofile(path)
    text = json.loads((broken / "manifest.json").read_text())
    text["files"]["onnx/int8/block0.weights.bin"]["sha256"] = sha256_of(path)
    (broken / "manifest.json").write_text(json.dumps(text))
    failed = [check.name for check in verify_bundle(Bundle.open(broken)) if check.passed is False]
    assert any("onnx int8 golden picture" in name for name in failed)
    assert not any("onnx int4" in name and "golden" in name for name in failed)


def test_older_bundles_without_the_new_fields_load(bundle: Path) -> None:
    text = json.loads((bundle / "manifest.json").read_text())
    for quality in text["quality"]:
        for name in ("nbytes", "method", "formats", "round_trip_error"):
            del quality[name]
        del quality["bits_per_dim_change_low"], quality["bits_per_dim_change_high"]
    assert Manifest.loads(json.dumps(text)).quality[0].nbytes is None


# ---- the search ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mixed") / "x.flowship"
    plot = output.parent / "plot.svg"
    _export(output, max_bpd_increase=0.05, plot=plot)
    return output


def test_a_limit_alone_searches_a_mixture(mixed: Path) -> None:
    with Bundle.open(mixed) as bundle:
        assert bundle.verify() == []
        assert bundle.manifest.precisions == {"onnx": ("mixed",)}
        (quality,) = bundle.manifest.quality
    assert quality.bits_per_dim_change is not None and quality.bits_per_dim_change <= 0.05
    assert quality.formats and {"block0", "block1"} <= set(quality.formats)
    assert any("int4" in format for own in quality.formats.values() for format in own.values())


def test_the_frontier_is_drawn_and_the_state_file_goes(mixed: Path) -> None:
    ElementTree.fromstring((mixed / "quality/frontier-onnx.svg").read_text())
    assert (mixed.parent / "plot.svg").read_text().startswith("<svg")
    assert sorted(path.name for path in mixed.parent.iterdir()) == ["plot.svg", "x.flowship"]


def test_what_exceeds_the_limit_is_refused_with_the_costliest_matrix(tmp_path: Path) -> None:
    words = r"onnx int4: \+.* the limit is 1e-09: block\d attn_blocks\..* in int4_g128 costs most"
    with pytest.raises(ParityError, match=words):
        _export(tmp_path / "x.flowship", precisions=("int4",), max_bpd_increase=1e-9)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ["x.flowship.search.jsonl"]  # to go on from with another limit
    state = (tmp_path / left[0]).read_text()
    _export(tmp_path / "x.flowship", precisions=("int4",))
    assert state and [path.name for path in tmp_path.iterdir()] == ["x.flowship"]


def test_a_size_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the smallest mixture for onnx takes .*, and its graphs on top"
    ):
        _export(tmp_path / "x.flowship", max_size=100)
    assert not (tmp_path / "x.flowship").exists()


def test_limits_that_do_not_fit_the_precisions(tmp_path: Path) -> None:
    output = tmp_path / "x.flowship"
    with pytest.raises(UsageError, match="mixed is searched: say --max-bpd-increase"):
        _export(output, precisions=("mixed",))
    with pytest.raises(UsageError, match="--max-size is for the precision mixed"):
        _export(output, precisions=("int8",), max_size=10**9)
    with pytest.raises(UsageError, match=r"limits quantized precisions.* fp32,fp16"):
        _export(output, precisions=("fp32", "fp16"), max_bpd_increase=0.005)
    with pytest.raises(UsageError, match="--plot draws the search"):
        _export(output, precisions=("int8",), plot=tmp_path / "plot.svg")
    with pytest.raises(UsageError, match="either the largest increase"):
        _export(output, max_bpd_increase=0.1, max_size=10**9)


def test_round_to_nearest_takes_no_calibration(tmp_path: Path) -> None:
    manifest = _export(tmp_path / "x.flowship", precisions=("int4",), method="rtn")
    assert manifest.quality[0].method == "rtn"


def test_large_models_are_rounded_and_checked_by_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FULL_CHECK_MULTIPLICATIONS", 0)
    (quality,) = _export(tmp_path / "x.flowship", precisions=("int4",)).quality
    assert (quality.method, quality.check, quality.bits_per_dim) == ("rtn", "spot", None)
    with pytest.raises(UsageError, match="without a likelihood"):
        _export(tmp_path / "y.flowship", precisions=("int4",), max_bpd_increase=0.1)
    with pytest.raises(UsageError, match=r"gptq: a model of .* say --data"):
        _export(tmp_path / "y.flowship", precisions=("int4",), method="gptq")
    assert not (tmp_path / "y.flowship").exists()


def test_targets_without_palettes_say_so() -> None:
    with pytest.raises(UsageError, match="onnx has no precision pal6"):
        plan_jobs(["onnx"], ["pal6"])


def test_the_command_prints_the_frontier(flowship: Terminal) -> None:
    result = flowship("export", TINY, "-o", "a.flowship", "--max-size", "1.5MB", "-q")
    assert result.status == 0, result.err
    assert "mixtures for onnx" in result.out and "chosen" in result.out
    result = flowship("export", TINY, "-o", "b.flowship", "--max-size", "much")
    assert result.status == 2 and "is not a size, as in 200MB" in result.err


# ---- sizes, profiles, refusals -------------------------------------------------------------------


def test_a_size_is_kept_with_the_graphs(tmp_path: Path) -> None:
    """Graphs are a third of so small a model: a limit between two mixtures takes two searches."""
    sizes = [_quality(path)[p].nbytes or 0 for path, p in _mixtures(tmp_path)]
    limit = sum(sizes) // 2
    manifest = _export(tmp_path / "x.flowship", max_size=limit, options=NO_DENOISE)
    (quality,) = manifest.quality
    assert min(sizes) <= (quality.nbytes or 0) <= limit
    least = r"--max-size of .* kB: the smallest mixture for onnx takes about .* kB with its graphs"
    with pytest.raises(UsageError, match=least):
        _export(tmp_path / "y.flowship", max_size=min(sizes) - 2000, options=NO_DENOISE)
    assert not (tmp_path / "y.flowship").exists()


def _mixtures(folder: Path) -> list[tuple[Path, str]]:
    path = folder / "uniform.flowship"
    _export(path, precisions=("int8", "int4"), options=NO_DENOISE)
    return [(path, "int8"), (path, "int4")]


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_convergence_is_measured_whatever_is_exported(target: str, tmp_path: Path) -> None:
    path = tmp_path / "x.flowship"
    _export(path, targets=(target,), precisions=("int8",), options=NO_DENOISE)
    profile = PlanFile.loads((path / PLAN).read_text()).profile
    assert profile and profile.entries and set(profile.floors) == {f"{target} int8"}
    assert "fp32" in profile.measured_with
    with Bundle.open(path) as bundle:
        assert bundle.verify() == [] and list(bundle.manifest.precisions) == [target]


def test_a_refused_export_draws_no_plot(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    with pytest.raises(ParityError):
        wishes = {"precisions": ("mixed", "int4"), "max_bpd_increase": 1e-9}
        _export(tmp_path / "x.flowship", plot=plot, **wishes)
    assert not plot.exists()


def test_labels_that_the_model_lacks(tmp_path: Path, flowship: Terminal) -> None:
    images = np.zeros((8, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(8) + 10)
    checkpoint = golden_model(CONDITIONAL).checkpoint
    words = ("--precision", "int8", "--data", tmp_path / "data.npz", "-o", "x.flowship")
    refused = flowship.refused("export", checkpoint, *words)
    assert "data.npz: there is no class 10: this model has the classes 0 to" in refused


def test_heads_that_onnx_runtime_does_not_take(tmp_path: Path, flowship: Terminal) -> None:
    config = TarFlowConfig(1, 4, 2, 24, 1, 1, 0, True, 12, 4, TrainingNoise("gaussian", 0.1))
    checkpoint = write_checkpoint(tmp_path, "odd", config)
    said = ("--head-dim", "12", "--in-channels", "1", "-q")
    words = ("export", checkpoint, "-o", "x.flowship", *said)
    refused = flowship.refused(*words)
    assert "takes heads of multiples of 8 values, this model's have 12: say --onnx-form" in refused
    flowship.ok(*words, "--onnx-form", "core")
