"""What ``plan`` and ``compare`` say of their times, and when they say none."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Terminal

from flowship.benchmarks import row
from flowship.benchmarks.formats import read_rows, table
from flowship.benchmarks.report import report_html
from flowship.runtime import Flow, plan_search, plan_verdict
from flowship.runtime.commands import compare as compare_command
from flowship.runtime.commands import generate as generate_command
from flowship.runtime.commands import plan as plan_command
from flowship.runtime.commands.compare import Compared, comparison_table
from flowship.runtime.conditions import Disturbance, Watch
from flowship.runtime.plan import Plan
from flowship.runtime.plan_verdict import time_plan
from flowship.runtime.untimed import UNTIMED_ENGINES

QUIET = Disturbance(0.0, 0.0, 1.0, 1e-4)
BUSY = Disturbance(1.0, 0.0, 1.0, 1e-4)


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[bool, float]:
    """Seconds of a picture, by whether its plan has windows; calls are quick and no window pays."""
    found = {False: 0.2, True: 0.2}

    def decode_once(flow: Flow, guided: bool) -> float:
        return found[any(w > 1 for w in flow.plan.windows.values())]

    def time_windows(model: Any, block: Any, windows: Any, guided: bool) -> dict[int, float]:
        return {window: 1e-4 * window for window in windows}

    clock = iter(range(1_000_000))
    monkeypatch.setattr(
        plan_verdict, "time", SimpleNamespace(perf_counter=lambda: next(clock) / 20)
    )
    monkeypatch.setattr(plan_verdict, "decode_once", decode_once)
    monkeypatch.setattr(plan_search, "time_windows", time_windows)
    monkeypatch.setattr(plan_search, "time_pictures", lambda flows, guided: [0.2, 0.2])
    monkeypatch.setattr(Watch, "disturbances", lambda self: [QUIET] * 1000)
    return found


def windows_of_four(flow: Flow) -> Flow:
    plan = Plan({block.name: 4 for block in flow.spec.ar_blocks})
    return Flow(flow.bundle, flow.engine, plan)


@pytest.mark.parametrize(
    ("planned", "verdict"), [(0.2, "same"), (0.15, "faster"), (0.25, "slower")]
)
def test_a_plan_is_judged_against_sequential_sampling(
    seconds: dict[bool, float], monkeypatch: pytest.MonkeyPatch, planned: float, verdict: str
) -> None:
    seconds[True] = planned
    with Flow.open(plan="default") as flow:
        found = time_plan(windows_of_four(flow), flow, guided=False)
        assert (found.verdict, found.trust) == (verdict, "trusted")
        assert found.ratio == pytest.approx(planned / 0.2)
        monkeypatch.setattr(Watch, "disturbances", lambda self: [BUSY] * 1000)
        found = time_plan(windows_of_four(flow), flow, guided=False)
    assert (found.verdict, found.trust) == ("unclear", "not trustworthy")
    assert "other programs used 1 cores" in found.reasons[0]


def test_a_plan_without_windows_is_not_faster_than_itself(
    seconds: dict[bool, float], flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "time_pictures", lambda flows, guided: [0.15, 0.2])
    text = flowship.ok("plan", "--threads", 1, "-q").out
    assert text.count("a picture: 200.0 ms, sequential (trusted, spread 0%)") == 2
    assert "conditions: load average" in text or "conditions: " in text
    assert "planned" not in text and "faster" not in text
    report = flowship.ok("plan", "--threads", 1, "-q", "--json").json
    assert report["measured_seconds"] == report["measured_sequential_seconds"]
    assert report["seconds"] == report["sequential_seconds"]
    assert [v["ratio"] for v in report["verdicts"]] == [None, None]
    assert report["conditions"]


def test_pictures_that_are_not_timed_have_no_verdict(
    seconds: dict[bool, float], flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "LONG_PICTURE", 0.0)
    text = flowship.ok("plan", "--threads", 1, "-q").out
    assert text.count("ms sequential (the sum of its calls, without a verdict") == 2


@pytest.mark.usefixtures("seconds")
def test_the_place_of_a_plan_is_tried_first(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def candidates(self: object) -> None:
        raise AssertionError("it has measured")

    monkeypatch.setattr(plan_search.PlanSearch, "candidates", candidates)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    error = flowship.refused("plan", "--threads", 1, "--save", "-q")
    assert "no place for settings (Not a directory)" in error and "XDG_CONFIG_HOME" in error


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_was_measured_is_printed_though_it_cannot_be_saved(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def full(saved: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "plans/x.json")

    monkeypatch.setattr(plan_command, "save_plan", full)
    plot = tmp_path / "plan.svg"
    ran = flowship("plan", "--threads", 1, "--save", "-q", "--plot", plot, *words)
    assert ran.status == 1
    assert ran.err == "flowship plan: plans/x.json: No space left on device\n"
    if words:
        assert ran.json["saved"] is None
    else:  # the error says it: no advice to do what was asked for
        assert "a picture: " in ran.out and "saved" not in ran.out
    assert plot.exists()  # the other results are not lost with it


def test_an_engine_that_checks_files_has_no_speed(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The interpreter of Core ML is one; here another engine stands for it, which is faster."""
    assert UNTIMED_ENGINES == ("coreml-interpreter",)
    for module in (row, plan_command, compare_command, generate_command):
        monkeypatch.setattr(module, "UNTIMED_ENGINES", ("onnx",))
    assert "is not a speed" in flowship.refused("plan", "-q")
    assert "not a speed" in flowship.refused("bench", "--self-check", "-q")
    (found,) = flowship.ok("bench", "-q", "--patches", 2, "--json").json["rows"]
    assert found["samples_ms"] == [] and found["psnr_db"] == 200
    numbers = ("median_ms", "images_per_min", "ttfi_ms", "load_ms", "read_gbps", "trust")
    assert {found[name] for name in numbers} == {None}
    ran = flowship.ok("compare", "embedded", "-n", 1, "-q")
    assert "not a speed" in ran.out.splitlines()[1]
    ran = flowship.ok("generate", "-n", 2, "-o", tmp_path / "a.png")
    assert "not a speed" in ran.err and "pictures a minute" not in ran.err
    report = flowship.ok("generate", "-n", 2, "-o", tmp_path / "a.png", "--json").json
    assert report["images_per_minute"] is report["seconds_per_image"] is None


def test_times_of_the_interpreter_in_old_files_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    old = {"model": "m", "engine": "coreml-interpreter", "samples_ms": [70.0] * 12, "trust": None}
    path.write_text(json.dumps({"rows": [{**old, "median_ms": 70.0, "images_per_min": 857.0}]}))
    (found,) = read_rows(path)
    assert found.median_ms is found.images_per_min is None and not found.samples_ms
    for text in (table([found]), report_html([found])):
        assert "not a speed" in text and "857" not in text
    shown = comparison_table(
        [Compared("coreml-interpreter", "fp16", 1, None, None, None, None, None, None)]
    )
    assert "not a speed" in shown
