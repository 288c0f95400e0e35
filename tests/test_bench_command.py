"""``flowship bench`` itself, with an engine whose time we know."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Terminal
from conftest import CONDITIONAL, Exporter, golden_model

from flowship.benchmarks import command, contender, turns
from flowship.benchmarks.contender import FlowContender, Subject
from flowship.benchmarks.formats import read_rows
from flowship.benchmarks.grid import Case
from flowship.benchmarks.options import duration
from flowship.benchmarks.synthetic_models import NAMES
from flowship.benchmarks.work import picture_bytes, picture_flops
from flowship.export.families.tarflow import TarFlowConfig
from flowship.export.pipeline import export_checkpoint
from flowship.export.request import ExportRequest
from flowship.export.synthetic import PRESETS, write_checkpoint
from flowship.runtime import Flow, UsageError, conditions
from flowship.runtime.cli import main
from flowship.runtime.conditions import CpuTimes
from flowship.runtime.engines import ENGINES, EngineOptions, find_engine
from flowship.runtime.hashing import sha256_bytes
from flowship.runtime.images import unpatchify
from flowship.runtime.progress import ProgressLine
from flowship.runtime.spec import TrainingNoise

CHECKPOINT = golden_model(CONDITIONAL).checkpoint

FAST = ("--no-cold", "--no-limits", "-q", "--threads", "1", "--warm-up", "1")

Floats = npt.NDArray[np.float32]


class Clock:
    """Stands for the module ``time`` where samples are timed: only a paced engine moves it."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """pace(seconds, error=0) makes each block take that long on the clock, and compute wrong.

    The machine is quiet and its pulse stands still, however busy it is.
    """
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(contender, "time", clock)
    monkeypatch.setattr(conditions, "calibrate", lambda: 1e-4)
    monkeypatch.setattr(conditions, "parse_proc_stat", lambda *_: CpuTimes(0.0, 0.0, 0.0))
    real = find_engine("onnx")

    def set_pace(seconds: float, error: float = 0.0) -> None:
        def factory(bundle: Any, options: EngineOptions) -> Any:
            engine = real(bundle, options)
            opened = engine.open

            def slow_open(stage: Any, **settings: Any) -> Any:
                inner = opened(stage, **settings)
                return _Slow(inner, clock, seconds, error)

            monkeypatch.setattr(engine, "open", slow_open)
            return engine

        monkeypatch.setitem(ENGINES, "onnx", factory)

    return set_pace


class _Slow:
    def __init__(self, inner: Any, clock: Clock, seconds: float, error: float) -> None:
        self._inner, self._clock, self._seconds, self._error = inner, clock, seconds, error
        self.windows = inner.windows

    def begin(self, *rows: Any) -> None:
        self._clock.now += self._seconds
        self._inner.begin(*rows)

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        xa, xb = self._inner.step(x, position)
        return xa, xb + np.float32(self._error if x.shape[1] > 1 else 0.0)

    def close(self) -> None:
        self._inner.close()


def bench(path: Path, *options: str) -> int:
    return main(["bench", *FAST, "--patches", "2", "-r", "20", "-o", str(path), *options])


def test_the_same_thing_twice_is_the_same_and_a_slowed_engine_fails(
    tmp_path: Path, pace: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, slow = (tmp_path / name for name in ("a.jsonl", "b.sqlite", "slow.csv"))
    pace(0.02)
    assert bench(a) == bench(b) == 0
    pace(0.05)
    assert bench(slow) == 0
    capsys.readouterr()
    options = ["--json", "--min-effect", "20%", "--fail-if-slower", "5%"]
    assert main(["bench", "compare", str(a), str(b), *options]) == 0
    assert _verdicts(capsys) == ["same"]
    assert main(["bench", "compare", str(a), str(slow), *options]) == 1
    assert _verdicts(capsys) == ["slower"]
    assert main(["bench", "compare", str(slow), str(a), *options]) == 0
    assert _verdicts(capsys) == ["faster"]
    assert main(["bench", "compare", str(a), str(slow), "--fail-if-slower", "5%"]) == 1
    output = capsys.readouterr()
    assert "slower" in output.out
    assert "regression: " in output.err


def _verdicts(capsys: pytest.CaptureFixture[str]) -> list[str]:
    document = json.loads(capsys.readouterr().out)
    return [comparison["verdict"] for comparison in document["comparisons"]]


def test_a_wrong_picture_is_not_trustworthy(tmp_path: Path, pace: Callable[..., None]) -> None:
    path = tmp_path / "a.json"
    pace(0.0, error=0.01)  # in windows alone: the sequential reference is right
    assert main(["bench", *FAST, "-r", "5", "--window", "1,4", "-o", str(path)]) == 0
    right, wrong = read_rows(path)
    assert right.psnr_db == 200
    assert wrong.psnr_db is not None and wrong.psnr_db < 90
    assert wrong.output_sha256 != right.output_sha256
    assert wrong.trust == "not trustworthy"
    assert any("wrong picture" in reason for reason in wrong.trust_reasons)


def test_a_row_of_the_embedded_model_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--threads", "1", "-r", "3", "--warm-up", "1", "--json", "--window", "1,4,99"]
    status = main(["bench", *options, "--no-limits", "--precision", "fp32,int3"])
    output = capsys.readouterr()
    assert status == 0
    rows = json.loads(output.out)["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok", *["skipped"] * 4]
    assert all(row["reason"] for row in rows[2:])
    one, four = rows[:2]
    with Flow.open() as flow:
        pixels = flow.generate(seed=7, label=0).pictures()
        assert one["model_sha256"] == flow.bundle.sha256
    assert one["output_sha256"] == sha256_bytes(pixels[0].tobytes())
    assert one["psnr_db"] == 200
    assert four["psnr_db"] > 90
    for row in (one, four):
        assert len(row["samples_ms"]) == len(row["sample_flags"]) == 3
        assert row["ttfi_ms"] > row["load_ms"] > 0
        assert row["bits_per_dim_change"] is not None
        assert "manifest" in row["accuracy_source"]
        assert row["trust"]
        assert row["cores"] >= 1
        assert row["engine_version"].startswith("onnxruntime")
    if sys.platform == "linux":
        assert 20 < one["peak_memory_mb"] < 2000


def test_the_first_patches_are_extrapolated_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.html"
    assert main(["bench", *FAST, "-r", "3", "--patches", "9", "-o", str(path)]) == 0
    assert "* extrapolated from the first 9 patches" in capsys.readouterr().out
    (row,) = read_rows(path)
    assert row.extrapolated_patches == 9
    assert row.psnr_db == 200
    assert row.ttfi_ms is None


def test_all_patches_one_by_one_give_the_whole_picture() -> None:
    case = Case(0, "onnx", "fp32", "cpu", 1, None, 2.0)
    whole, parts = (FlowContender(None, case, Subject(patches=p)) for p in (None, 48))
    parts.patches = 49
    try:
        state = parts.run()
        images = unpatchify(state, whole.flow.spec.image)
        np.testing.assert_array_equal(images, whole.run())
    finally:
        whole.close()
        parts.close()


def test_a_case_that_cannot_be_run_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = list[Flow]()
    monkeypatch.setattr(Flow, "close", closed.append)
    case = Case(0, "onnx", "fp32", "cpu", 1, None, 0.0)
    with pytest.raises(UsageError, match="hat"):
        FlowContender(None, case, Subject(label="hat"))
    assert len(closed) == 1


def test_work_counts_the_calls() -> None:
    case = Case(0, "onnx", "fp32", "cpu", 1, 1, 0.0)
    contender = FlowContender(None, case, Subject())
    try:
        work, manifest = contender.count_work(), contender.flow.bundle.manifest
    finally:
        contender.close()
    assert set(work.calls.values()) == {48}
    assert work.calls == work.evaluated
    assert manifest.source.num_parameters
    weights = 4 * manifest.source.num_parameters * 48  # of all blocks, read in each call
    assert picture_bytes(manifest, work, "onnx", "fp32", 1) == pytest.approx(weights, rel=0.1)
    assert picture_flops(manifest, work, 1) == pytest.approx(weights / 2, rel=0.1)
    assert picture_flops(manifest, work, 2) == 2 * picture_flops(manifest, work, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_a_busy_machine_is_noticed(tmp_path: Path) -> None:
    loop = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    path = tmp_path / "a.json"
    with (
        subprocess.Popen(loop, stdout=subprocess.PIPE) as first,
        subprocess.Popen(loop, stdout=subprocess.PIPE) as second,
    ):
        try:
            for busy in (first, second):
                assert busy.stdout and busy.stdout.readline()  # it runs
            assert main(["bench", *FAST, "-r", "25", "-o", str(path)]) == 0
        finally:
            first.kill()
            second.kill()
    (row,) = read_rows(path)
    assert row.trust == "not trustworthy"
    assert "other programs used" in " ".join(row.trust_reasons)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "1,x"], "--threads 'x'"),
        (["--threads", "1,257"], "--threads 1,257: 256 is the most"),
        (["--patches", "1"], "--patches 1"),
        (["--min-repeats", "5", "--max-repeats", "2"], "cannot be measured"),
        (["-o", "rows.txt"], "no format is called '.txt'"),
        (["--model", "tarflow-mars"], "unknown model 'tarflow-mars'"),
        (["--model", ""], "--model '' has an empty place"),
        (["--precision", ""], "--precision '' has an empty place"),
        (["--engine", ","], "--engine ',' has an empty place"),
        (["--threads", "0"], "--threads 0: 1 is the least"),
        (["--min-seconds", "9", "--max-seconds", "2"], "cannot be measured"),
        (["--self-check", "-o", "a.json"], "--self-check makes no rows"),
        (["--self-check", "--format", "csv"], "--self-check makes no rows"),
    ],
)
def test_misuse(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-q", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowship bench: ")
    assert message in error


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1.5", "", "1e3"])
@pytest.mark.parametrize("option", ["-r", "--min-repeats", "--max-repeats", "--warmup"])
def test_counts_are_whole_numbers(flowship: Terminal, option: str, value: str) -> None:
    if (option, value) != ("--warmup", "0"):
        assert "is not a whole number from" in flowship.refused("bench", f"{option}={value}")


@pytest.mark.parametrize("value", ["0s", "-5m", "nan", "inf", "5 minutes", "", "1d"])
@pytest.mark.parametrize("option", ["--wait-quiet", "--max-seconds", "--min-seconds"])
def test_durations(flowship: Terminal, option: str, value: str) -> None:
    error = flowship.refused("bench", f"{option}={value}")
    assert f"{value!r} is not a duration, as in 30s, 5m or 1h" in error


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("9", 9)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_an_unknown_model_is_told_before_the_exporter_is_imported() -> None:
    code = (
        "import sys; from flowship.runtime.cli import main; "
        "status = main(['bench', '--model', 'tarflow-mars']); "
        "loaded = {'torch', 'onnxruntime'} & set(sys.modules); "
        "sys.exit(repr(loaded) if loaded or status != 2 else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert tuple(PRESETS) == NAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--engine teapot", "nothing for teapot"),
        ("--precision int3,int5", "no int3 for onnx, only fp32 (and 1 more)"),
        ("--seed=-1", "seed -1"),
        ("--label 10", "no class 10"),
        ("--label teapot", "teapot"),
        ("--label 0,3", "2 labels for 1 picture"),
    ],
)
def test_where_nothing_can_run_it_is_misuse(
    flowship: Terminal, tmp_path: Path, words: str, message: str
) -> None:
    path = tmp_path / "a.json"
    error = flowship.refused("bench", *FAST, *words.split(), "-o", path)
    assert "nothing of the grid can run: " in error and message in error
    assert not path.exists()


def test_what_cannot_run_beside_what_can_is_a_row(flowship: Terminal) -> None:
    ran = flowship.ok("bench", *FAST, "-r", 3, "--patches", 2, "--engine", "onnx,teapot")
    assert "nothing for teapot" in ran.out


def test_places_are_checked_before_the_work(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(command, "measure", work)
    (tmp_path / "text.sqlite").write_text("this is no database, whatever its name may say")
    (tmp_path / "text.jsonl").write_text("no rows\n")
    (tmp_path / "folder.html").mkdir()
    for name, message in {
        "no/a.md": "does not exist",
        "folder.html": "is a folder",
        "text.sqlite": "not a database",
        "text.jsonl": "is not JSON",
    }.items():
        assert message in flowship.refused("bench", *FAST, "-o", tmp_path / name)
    assert not (tmp_path / "no").exists()


def test_a_picture_of_one_patch(flowship: Terminal, exported: Exporter, tmp_path: Path) -> None:
    noise = TrainingNoise("gaussian", 0.07)
    config = TarFlowConfig(1, 4, 4, 64, 2, 1, 0, True, 64, 4, noise)
    bundle = exported(write_checkpoint(tmp_path, "one-patch", config))
    for words in (("bench", *FAST), ("bench", "predict"), ("bench", "predict", "--this-device")):
        assert "is one patch, which takes no call" in flowship.refused(*words, bundle)


def test_all_patches_are_the_whole_picture(flowship: Terminal) -> None:
    rows = flowship.ok("bench", *FAST, "-r", 3, "--patches", 60, "--json").json["rows"]
    assert rows[0]["extrapolated_patches"] is None


def test_bundles_of_one_name_are_told_apart(flowship: Terminal, tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        config = PRESETS["tarflow-tiny"].config
        checkpoint = write_checkpoint(tmp_path / f"{seed}", "same", config, seed=seed)
        paths.append(tmp_path / f"{seed}.flowship")
        request = ExportRequest(("onnx",), ("fp32",), name="same")
        export_checkpoint(checkpoint, paths[-1], request, ProgressLine(enabled=False))
    file = tmp_path / "rows.jsonl"
    ran = flowship.ok("bench", *paths, *FAST, "-r", 3, "--spinning", "no,yes", "-o", file)
    rows = read_rows(file)
    assert {row.model for row in rows} == {"same"}
    for row in rows:
        assert row.model_sha256 and f"same ({row.model_sha256[:8]})" in ran.out
    assert ran.out.count("1, spinning") == 2
    error = flowship.refused("bench", "compare", file, file)
    assert "two bundles are called same: choose one with --a or --b model_sha256=" in error


def test_thread_counts_of_executorch_take_no_turns(flowship: Terminal, exported: Exporter) -> None:
    bundle = exported(CHECKPOINT, ("onnx", "executorch"), ("fp32",))
    options = ("--engine", "onnx,executorch", "--threads", "1,2", "-r", 3, "--json")
    words = ("--no-cold", "--no-limits", "-q", "--warm-up", 1)
    rows = flowship.ok("bench", bundle, *words, *options).json["rows"]
    assert [(row["engine"], row["threads"]) for row in rows] == [
        *(("onnx", 1), ("onnx", 2), ("executorch", 1), ("executorch", 2))
    ]
    assert [any("took no turns" in note for note in row["notes"]) for row in rows] == [
        *(False, False, False, True)
    ]


def test_a_wrong_picture_of_four_bits(
    flowship: Terminal, exported: Exporter, pace: Callable[..., None]
) -> None:
    """Its floor comes from the export; a picture below it has four others beside it."""
    bundle = exported(CHECKPOINT, ("onnx",), ("fp32", "int4"))
    words = ("--precision", "int4", "--window", "1,2,4", "-r", 3, "--json")
    right = flowship.ok("bench", bundle, *FAST, *words).json["rows"]
    assert not any("wrong" in " ".join(row["trust_reasons"]) for row in right)
    pace(0.0, error=1.0)
    rows = flowship.ok("bench", bundle, *FAST, *words).json["rows"]
    assert rows[0]["psnr_median_db"] is None  # sequential calls are right
    for row in rows[1:]:
        assert row["psnr_floor_db"] == right[0]["psnr_floor_db"] > 10
        assert row["psnr_median_db"] < row["psnr_floor_db"]
        assert "wrong picture" in " ".join(row["trust_reasons"])


def test_a_synthetic_model_is_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ["--model", "tarflow-tiny", "-r", "3", "--json"]
    assert main(["bench", *FAST, *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["model"] == "tarflow-tiny"
    assert row["synthetic"]
    (made,) = (tmp_path / "flowship" / "bench").iterdir()
    before = made.stat().st_mtime_ns
    assert main(["bench", *FAST, *options]) == 0
    assert made.stat().st_mtime_ns == before


def test_spinning_is_a_setting_of_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-r", "3", "--patches", "2", "--spinning", "no,yes", "--json"]
    assert main(["bench", *FAST, *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["spinning"] for row in rows] == [False, True]
    assert rows[0]["output_sha256"] == rows[1]["output_sha256"]


def test_a_label_is_a_name_a_number_or_none(flowship: Terminal) -> None:
    words = ("bench", *FAST, "-r", 3, "--patches", 2, "--json", "--label")
    found = [flowship.ok(*words, label).json["rows"][0] for label in ("Sneaker", "7", "none")]
    assert [row["label"] for row in found] == [7, 7, None]
    assert found[0]["output_sha256"] == found[1]["output_sha256"]


def test_the_same_case_is_measured_once(flowship: Terminal, tmp_path: Path) -> None:
    """The embedded plan has windows of 1, and one thread does not spin."""
    file = tmp_path / "a.jsonl"
    words = ("--window", "auto,1,4", "--spinning", "no,yes", "-r", 3, "--patches", 2, "-o", file)
    ran = flowship.ok("bench", "embedded", "embedded", *FAST, *words)
    rows = read_rows(file)
    assert [(row.window, row.spinning) for row in rows] == [
        *(("auto", False), ("auto", True), ("1", False), ("1", True), ("4", False), ("4", True))
    ]
    assert [row.same_as for row in rows] == [
        None, *[rows[0].name] * 3, None, rows[4].name
    ]  # fmt: skip
    assert len({row.samples_ms for row in rows}) == 2
    assert f"the same case as {rows[0].name}, measured once" in ran.out
    assert "given more than once" in ran.out
    pair = ("--a", "window=auto", "--b", "window=1", "--json")
    found = flowship.ok("bench", "compare", file, file, *pair).json["comparisons"]
    assert {(c["verdict"], c["ratio"]) for c in found} == {("same", 1.0)}
    assert "one measurement: both are the same" in found[0]["reasons"]


def test_turns_are_recorded(flowship: Terminal) -> None:
    words = ("bench", *FAST, "-r", 20, "--patches", 2, "--window", "1,2,4", "--json")
    runs = [flowship.ok(*words, "--order-seed", seed).json["rows"] for seed in (5, 5, 6)]
    places = [[row["sample_places"] for row in rows] for rows in runs]
    assert places[0] == places[1] != places[2]
    assert sorted(place for own in places[0] for place in own) == list(range(60))
    assert all(sum(place % 3 for place in own) == 20 for own in places[0])  # balanced
    assert {row["order_seed"] for row in runs[2]} == {6}
    assert len({row["run"] for row in runs[0]}) == 1


def test_a_machine_checks_itself(flowship: Terminal, pace: Callable[..., None]) -> None:
    pace(0.02)
    words = ("bench", "--self-check", *FAST, "--patches", 2, "-r", 20)
    ran = flowship.ok(*words)
    assert "against itself" in ran.out and "this machine can tell differences now: 3%" in ran.out
    report = flowship.ok(*words, "--json").json
    assert report["can_tell"] and report["comparison"]["verdict"] == "same"
    few = flowship("bench", "--self-check", *FAST, "--patches", 2, "-r", 4)
    assert few.status == 3 and "this machine cannot tell differences now" in few.out
    assert "4 samples, 10 are the least that is trusted" in few.out


def test_exit_statuses_are_in_the_help(flowship: Terminal) -> None:
    for words in (("bench",), ("bench", "compare")):
        assert "Exit status: 0 " in " ".join(flowship.ok(*words, "--help").out.split())
