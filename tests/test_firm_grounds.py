"""Nothing is taken, called trusted or estimated on grounds that are not firm; reasons stay few."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Terminal
from test_bench_report import row, written

from flowship.benchmarks.compare import compare_rows
from flowship.benchmarks.compare_command import render
from flowship.benchmarks.formats import remarks
from flowship.benchmarks.row import Row
from flowship.benchmarks.trust import judged
from flowship.runtime import Flow, plan_search, plan_settling, plan_verdict, progress
from flowship.runtime.conditions import Disturbance, Watch
from flowship.runtime.likelihood import few_pictures
from flowship.runtime.plan_verdict import PictureTimes
from flowship.runtime.progress import ProgressLine
from flowship.runtime.reasons import in_few_lines
from flowship.runtime.saved_plans import load_saved_plan
from flowship.runtime.trust import Difference, Trust

QUIET, BUSY = (Disturbance(cores, 0.0, 1.0, 1e-4) for cores in (0.0, 1.0))


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What whole pictures say; calls say that all windows pay, and that 2 threads do."""
    said: dict[str, Any] = {"verdict": "faster", "reasons": (), "threads": "faster"}

    def time_flows(flows: Sequence[Flow], *, guided: bool, **_: object) -> PictureTimes:
        apart = len({flow.engine.info.threads for flow in flows}) > 1
        found: Difference = said["threads" if apart else "verdict"]
        trust: Trust = "noisy" if said["reasons"] else "trusted"
        ratio = 0.8 if len(flows) > 1 else None
        reasons = said["reasons"]
        return PictureTimes(guided, 16.0, 20.0, 0.0, ratio, ratio, ratio, found, trust, reasons)

    def time_windows(model: Any, block: Any, windows: Any, guided: bool) -> dict[int, float]:
        return dict.fromkeys(windows, 1e-4 / model.engine.info.threads)

    def time_pictures(flows: Sequence[Flow], guided: bool) -> list[float]:
        return [seconds / flows[0].engine.info.threads for seconds in (0.02, 0.03)]

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(plan_verdict, "time_flows", time_flows)
    monkeypatch.setattr(plan_settling, "time_flows", time_flows)
    monkeypatch.setattr(plan_search, "time_windows", time_windows)
    monkeypatch.setattr(plan_search, "time_pictures", time_pictures)
    monkeypatch.setattr(Watch, "disturbances", lambda self: [QUIET] * 99)
    return said


def saved_plan() -> Any:
    with Flow.open() as flow:
        saved = load_saved_plan(flow.bundle.sha256, "onnx", "fp32", "cpu")
    assert saved is not None
    return saved


def test_windows_and_threads_that_are_faster_are_saved_with_their_times(
    verdict: dict[str, Any], flowship: Terminal
) -> None:
    report = flowship.ok("plan", "--threads", "1,2", "--save", "--json", "-q").json
    saved = saved_plan()
    assert max(saved.plan.windows.values()) > 1 and saved.threads == 2 == report["threads"]
    assert (saved.seconds, saved.guided_seconds) == (0.016, 0.016)
    assert report["kept"] == []


@pytest.mark.parametrize("found", ["unclear", "same", "slower"])
def test_windows_without_a_firm_verdict_are_not_saved(
    verdict: dict[str, Any], flowship: Terminal, found: str
) -> None:
    verdict |= {"verdict": found}
    if found == "unclear":
        verdict["reasons"] = ("planned: 100% of the samples were disturbed (busy)",)
    report = flowship.ok("plan", "--threads", 1, "--save", "--json", "-q").json
    saved = saved_plan()
    for windows in (saved.plan.windows, saved.plan.guided_windows, report["plan"]["windows"]):
        assert set(windows.values()) == {1}
    assert saved.seconds == 0.02 and len(report["kept"]) == 2
    text = flowship.ok("plan", "--threads", 1, "-q").out
    assert "sequential is kept" in text and "no window pays" not in text
    busy = "not clear on this busy machine (planned: 100% of the samples"
    assert (busy in text) == ("run again when it is quiet" in text) == (found == "unclear")


@pytest.mark.parametrize("found", ["unclear", "same"])
def test_threads_without_a_firm_verdict_stay_the_usual_ones(
    verdict: dict[str, Any], flowship: Terminal, found: str
) -> None:
    verdict["threads"] = found
    report = flowship.ok("plan", "--threads", "1,2", "--save", "--json", "-q").json
    assert report["threads"] == saved_plan().threads == 1
    assert "2 threads against 1 thread" in report["kept"][-1] and "1 thread kept" in str(report)


def test_long_pictures_are_planned_on_a_quiet_machine_alone(
    verdict: dict[str, Any], flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "LONG_PICTURE", 0.0)
    words = ("plan", "--threads", 1, "--json", "-q")
    assert max(flowship.ok(*words).json["plan"]["windows"].values()) > 1
    monkeypatch.setattr(Watch, "disturbances", lambda self: [BUSY] * 99)
    report = flowship.ok(*words).json
    assert set(report["plan"]["windows"].values()) == {1}
    assert "not clear on this busy machine (100% of the samples" in report["kept"][0]


def test_no_window_pays_is_no_fact_of_a_busy_machine(
    verdict: dict[str, Any], flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "time_pictures", lambda flows, guided: [0.03, 0.02])
    assert "no window pays on this device" in flowship.ok("plan", "--threads", 1, "-q").out
    verdict["reasons"] = ("100% of the samples were disturbed (busy)",)
    text = flowship.ok("plan", "--threads", 1, "-q").out
    assert "no window pays" not in text and "not clear on this busy machine (100%" in text


def test_reasons_say_whose_they_are() -> None:
    wide, few = "the middle half of the samples is {}% wide", "9 samples are too few"
    found = plan_verdict._whose(
        [[wide.format(20)], [wide.format(30), few]], ("planned", "sequential")
    )
    assert found == (f"both: {wide.format(20)}", f"sequential: {few}")


@pytest.mark.parametrize("option", ["--fail-if-slower", "--min-effect"])
@pytest.mark.parametrize("value", ["5", "1", "1.5"])
def test_a_bare_number_is_no_share(flowship: Terminal, option: str, value: str) -> None:
    assert "say 5% or 0.05" in flowship.refused("bench", "compare", "a", "b", option, value)
    assert "say 5% or 0.05" in flowship.refused("bench", "--uncertainty", value)


def test_reasons_of_many_cases_are_few_lines(tmp_path: Path) -> None:
    names = "abcdefgh"
    said = [(n, "noisy", [f"{i} % wide", "busy"]) for i, n in enumerate(names)]
    said.append(("z", "trusted", []))
    assert in_few_lines(said) == ["a and 7 more alike: noisy: 0 % wide; busy"]
    lines = in_few_lines([(n, "noisy", [n]) for n in names], most=5)
    assert len(lines) == 6 and lines[-1] == "and 3 more (--json has all)"
    rows = [judged(replace(row(20 + i, i, model=f"m{i}"), other_cores=0.2 + i)) for i in range(9)]
    found = [line for line in remarks(rows) if "other programs" in line]
    assert [line.split(":")[1] for line in found] == [" noisy", " not trustworthy"]
    assert "and 7 more alike" in found[1]
    shown = render(compare_rows(rows, rows[::-1])).splitlines()
    assert len(shown) <= 9 + 2 + 6


def turns(first: int, **fields: Any) -> Row:
    places = tuple(range(first, 120, 2))
    return row(20, first, run="r", sample_places=places, span_s=2.0, **fields)


def test_medians_of_paired_rounds_are_called_that() -> None:
    found = compare_rows([turns(0, window="1")], [turns(1, window="2")], ignore=["window"])
    assert found[0].rounds == 60
    assert "medians of the 60 rounds that both have" in render(found)
    assert "medians" not in render(compare_rows([row(20, 1)], [row(20, 2)]))


def test_two_runs_say_what_was_alike(flowship: Terminal, tmp_path: Path) -> None:
    pulses = {"sample_pulses_ms": (0.07,) * 60}
    a, b = (written(tmp_path / f"{i}.json", row(20, i, run=f"{i}", **pulses)) for i in (1, 2))
    text = flowship("bench", "compare", a, b).out
    assert "a fixed computation took as long in both runs, x 1.00" in text and "pulse" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score photos/p0.png", "BUNDLE comes first; the word embedded names the built-in model"),
        ("encode p0.png", "BUNDLE comes first"),
        ("decode z.npy --input z", "BUNDLE comes first"),
        ("interpolate --seeds 1 2", "write --seeds 1,2"),
        ("bench --threads 1 2", "write --threads 1,2"),
        ("plan --threads 1 2", "write --threads 1,2"),
    ],
)
def test_errors_name_the_argument_that_is_wrong(
    flowship: Terminal, words: str, message: str
) -> None:
    assert message in flowship.refused(*words.split())


def test_the_time_that_is_left_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for seconds, fraction, known in ((11, 0.01, False), (6, 0.1, True), (1, 0.5, False)):
        stream, now[0] = io.StringIO(), 0.0
        line = ProgressLine(stream=stream)
        line._interval, now[0] = 0.0, float(seconds)
        line.update(fraction, "work")
        assert ("left" in stream.getvalue()) == known and "work" in stream.getvalue()


@pytest.mark.usefixtures("verdict")
def test_compare_times_enough_pictures_to_be_trusted(flowship: Terminal, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    text = flowship.ok("compare", "embedded", "-n", 1, "-q", "--images", sheet).out
    assert text.splitlines()[-1] == str(sheet)
    assert "samples, 10 are the least" not in text and "1 s are the least" not in text


def test_small_samples_are_called_that() -> None:
    assert "a small sample" in few_pictures(63) and few_pictures(64) == ""
