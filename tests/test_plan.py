"""Plans: what is measured, chosen and saved, and that pictures do not depend on time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from conftest import CONDITIONAL, Exporter, golden_model

from flowship.export.families.tarflow import TarFlowConfig
from flowship.export.synthetic import write_checkpoint
from flowship.runtime import (
    BundleError,
    Flow,
    convergence,
    plan_search,
    plan_settling,
    plan_verdict,
)
from flowship.runtime.bundle import Bundle
from flowship.runtime.cli import main
from flowship.runtime.commands import plan as plan_command
from flowship.runtime.conditions import Disturbance, Watch
from flowship.runtime.convergence import QUICK, WHOLE, Extent
from flowship.runtime.exactness import Difference, exact_windows
from flowship.runtime.images import to_uint8
from flowship.runtime.model import Model
from flowship.runtime.plan import Convergence, Plan, PlanFile, Profile
from flowship.runtime.plan_verdict import PictureTimes
from flowship.runtime.planner import choose_windows, chosen_windows, planned_seconds
from flowship.runtime.saved_plans import load_saved_plan, make_plans_folder, plans_folder
from flowship.runtime.spec import MAX_PATCHES, ARBlock, TrainingNoise
from flowship.runtime.trust import Difference as Verdict


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _profile(flow: Flow) -> Profile:
    entries = tuple(
        Convergence(block.name, window, guidance, committed, committed)
        for block in flow.spec.ar_blocks
        for guidance in (0.0, 2.0)
        for window, committed in ((4, 2.0), (8, 2.5))
    )
    return Profile(1, 1e-5, "test", entries)


def test_the_embedded_bundle_has_a_profile() -> None:
    with Flow.open() as flow:
        file = PlanFile.loads(flow.bundle.path("plan.json").read_text())
    assert file.profile is not None
    assert {e.window for e in file.profile.entries} == set(WHOLE.lengths(49))
    assert all(1 <= e.worst <= e.committed <= e.window for e in file.profile.entries)
    assert 0 < file.profile.floors["onnx fp32"] < 1e-5
    assert file.tolerance("onnx", "fp32") == pytest.approx(1e-5, rel=3)


def test_between_measured_windows_the_next_smaller_one_counts() -> None:
    """Also where that one commits less than a still smaller one."""
    entries = [("a", 2, 0.0, 1.5), ("a", 8, 0.0, 1.2), ("a", 4, 0.0, 1.9), ("a", 2, 1.0, 1.1)]
    found = tuple(Convergence(*entry, entry[3]) for entry in entries)
    profile = Profile(1, 1e-5, "test", found)
    assert [profile.committed("a", w, False) for w in (1, 2, 3, 4, 7, 8, 99)] == [
        1, 1.5, 1.5, 1.9, 1.9, 1.2, 1.2,
    ]  # fmt: skip
    assert profile.committed("a", 8, True) == 1.1 and profile.committed("b", 8, False) == 1


def test_how_much_of_a_model_is_measured() -> None:
    assert WHOLE.lengths(2) == [] and WHOLE.lengths(5) == [2, 3, 4]
    assert QUICK.lengths(1024) == [2, 4, 8, 16, 32, 64] and QUICK.lengths(9) == [2, 4]


def test_a_large_model_without_a_profile_is_measured_on_its_first_patches(
    flowship: Terminal, exported: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exported(golden_model(CONDITIONAL).checkpoint)
    with Bundle.open(bundle) as opened:
        text = PlanFile().dumps()
        monkeypatch.setattr(Path, "read_text", _except(opened.path("plan.json"), text))
    asked = []

    def measure_profile(*words: object) -> Profile:
        asked.append(words[3])
        return convergence.measure_profile(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(plan_command, "measure_profile", measure_profile)
    few = Extent(1, (2, 4), 6)
    monkeypatch.setattr(plan_command, "QUICK", few)
    monkeypatch.setattr(plan_command, "sequential_estimate", lambda model: 60.0)
    ran = flowship.ok("plan", bundle, "--threads", 1)
    assert asked == [few] and "measuring it here on the first 6 patches" in ran.err
    monkeypatch.setattr(plan_command, "sequential_estimate", lambda model: 0.1)
    report = flowship.ok("plan", bundle, "--threads", 1, "--json", "-q").json
    assert asked[1:] == [WHOLE]
    assert max(option["window"] for option in report["options"]) > 6


def _except(path: Path, text: str) -> Any:
    """Path.read_text(), but for one file."""
    real = Path.read_text

    def read_text(self: Path, *words: Any, **named: Any) -> str:
        return text if self == path else real(self, *words, **named)

    return read_text


@pytest.mark.parametrize("window", [0, MAX_PATCHES + 1, 10**18])
def test_a_plan_asks_for_no_more_than_a_sequence_can_have(window: int) -> None:
    with pytest.raises(ValueError, match=f"a window of {window} patches, expected 1 to 65536"):
        Plan({"block0": window})
    with pytest.raises(ValueError, match="tolerance is nan"):
        Plan(tolerance=float("nan"))


def test_a_window_longer_than_the_sequence_is_the_whole_sequence() -> None:
    with Flow.open() as flow:
        names = [block.name for block in flow.spec.ar_blocks]
        plans = [Plan(dict.fromkeys(names, window)) for window in (48, MAX_PATCHES)]
        made = [Flow(flow.bundle, flow.engine, plan).generate(seed=3).pictures() for plan in plans]
    assert np.array_equal(made[0], made[1])


def test_a_window_is_chosen_where_it_pays() -> None:
    with Flow.open() as flow:
        spec, profile = flow.spec, _profile(flow)
    names = [block.name for block in spec.ar_blocks]
    cheap = {name: {1: 1.0, 4: 1.2, 8: 3.0} for name in names}
    options = choose_windows(spec, profile, cheap, guided=False)
    assert set(chosen_windows(options).values()) == {4}
    assert planned_seconds(options) == pytest.approx(len(names) * 48 / 2.0 * 1.2)
    dear = {name: {1: 1.0, 4: 1.95, 8: 2.5} for name in names}  # gains below 5% do not count
    assert set(chosen_windows(choose_windows(spec, profile, dear, True)).values()) == {1}


def test_a_window_that_does_not_pay_is_given_up() -> None:
    with Flow.open() as flow:
        names = [block.name for block in flow.spec.ar_blocks]
        hopeless = Plan(dict.fromkeys(names, 16), min_committed=dict.fromkeys(names, 16.0))
        with Flow.open(plan=hopeless) as stubborn:
            images = stubborn.generate(seed=3, label=1).images
        assert (
            np.abs(to_uint8(images).astype(int) - flow.generate(seed=3, label=1).pictures()).max()
            <= 1
        )


def test_plan_command_saves_what_generate_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plan.svg"
    assert main(["plan", "--threads", "1", "--save", "--json", "-q", "--plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert Path(report["saved"]).parent == plans_folder()
    assert plot.read_text().startswith("<svg") and "block3" in plot.read_text()
    with Flow.open() as flow:
        saved = load_saved_plan(flow.bundle.sha256, "onnx", "fp32", "cpu")
        assert saved is not None and flow.plan == saved.plan
        assert report["plan"]["windows"] == saved.plan.windows
        assert flow.engine.info.threads == 1
    with Flow.open(plan="default") as flow:
        assert flow.plan.windows == {}


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is compared in turns is faster, on a machine that is quiet."""

    def time_flows(flows: Sequence[Flow], *, guided: bool, **_: object) -> PictureTimes:
        verdict: Verdict = "faster" if len(flows) > 1 else "same"
        ratio = 0.8 if len(flows) > 1 else None
        return PictureTimes(guided, 16.0, 20.0, 0.0, ratio, ratio, ratio, verdict, "trusted", ())

    monkeypatch.setattr(plan_verdict, "time_flows", time_flows)
    monkeypatch.setattr(plan_settling, "time_flows", time_flows)
    monkeypatch.setattr(Watch, "disturbances", lambda self: [Disturbance(0.0, 0.0, 1.0, 1e-4)] * 99)


@pytest.mark.usefixtures("sure")
def test_whole_pictures_decide_between_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls of one block say 2 threads; a picture, whose blocks' threads disturb each other, no."""
    call, picture = {1: 1e-4, 2: 5e-5}, {1: 0.02, 2: 0.05}

    def time_windows(
        model: Model, block: ARBlock, windows: Sequence[int], guided: bool
    ) -> dict[int, float]:
        return dict.fromkeys(windows, call[model.engine.info.threads])

    def time_pictures(flows: Sequence[Flow], guided: bool) -> list[float]:
        return [picture[flow.engine.info.threads] for flow in flows]

    monkeypatch.setattr(plan_search, "time_windows", time_windows)
    monkeypatch.setattr(plan_search, "time_pictures", time_pictures)
    assert main(["plan", "--threads", "1,2", "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 1 and report["measured_seconds"] == 0.02
    monkeypatch.setattr(plan_search, "LONG_PICTURE", 0.0)  # too long to make one: calls decide
    assert main(["plan", "--threads", "1,2", "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 2 and report["measured_seconds"] is None


@pytest.mark.usefixtures("sure")
def test_windows_that_pay_alone_but_not_together_are_left_out(
    monkeypatch: pytest.MonkeyPatch, flowship: Terminal
) -> None:
    def time_windows(
        model: Model, block: ARBlock, windows: Sequence[int], guided: bool
    ) -> dict[int, float]:
        return dict.fromkeys(windows, 1e-4)

    def time_pictures(flows: Sequence[Flow], guided: bool) -> list[float]:
        return [0.03, 0.02] if guided else [0.02, 0.03]

    monkeypatch.setattr(plan_search, "time_windows", time_windows)
    monkeypatch.setattr(plan_search, "time_pictures", time_pictures)
    report = flowship.ok("plan", "--threads", 1, "-q", "--json").json
    assert set(report["plan"]["guided_windows"].values()) == {1}
    assert max(report["plan"]["windows"].values()) > 1
    assert report["guided_measured_seconds"] == 0.02


@pytest.mark.usefixtures("sure")
def test_windows_that_make_other_pictures_are_refused(
    monkeypatch: pytest.MonkeyPatch, flowship: Terminal
) -> None:
    """A tolerance of a float16 engine, and windows that look cheap."""

    def time_windows(
        model: Model, block: ARBlock, windows: Sequence[int], guided: bool
    ) -> dict[int, float]:
        return dict.fromkeys(windows, 1e-4)

    def time_pictures(flows: Sequence[Flow], guided: bool) -> list[float]:
        return [0.02, 0.03]  # planned, sequential: measured ones would decide here

    def rough(self: PlanFile, engine: str, precision: str) -> float:
        return 0.02

    monkeypatch.setattr(plan_search, "time_windows", time_windows)
    monkeypatch.setattr(plan_search, "time_pictures", time_pictures)
    monkeypatch.setattr(PlanFile, "tolerance", rough)
    words = ("plan", "--threads", 1, "-q")
    exact = flowship.ok(*words, "--json").json
    failed = [c for c in exact["comparisons"] if not c["passed"]]
    assert failed and all(c["equal"] < 0.999 or c["levels"] > 1 for c in failed)
    windows = exact["plan"]["windows"]
    assert not any(c["windows"] == windows for c in failed if not c["guided"])
    chosen = {o["stage"]: o["window"] for o in exact["options"] if o["chosen"] and not o["guided"]}
    assert windows == chosen
    printed = flowship.ok(*words).out
    assert ": refused, at most 0.1% may, by 1" in printed and "x refused" in printed
    rest = flowship.ok(*words, "--inexact", "--json").json
    assert rest["comparisons"] == [] and min(rest["plan"]["windows"].values()) > 1
    assert sum(rest["plan"]["windows"].values()) > sum(windows.values())


@pytest.mark.parametrize("several", [True, False])
def test_what_is_left_of_a_plan_that_is_not_exact(several: bool) -> None:
    """a is wrong with 8 and right with 4; b and c are right alone, and not together."""
    asked = []

    def compare(windows: Mapping[str, int]) -> Difference:
        asked.append(dict(windows))
        wrong = windows.get("a") == 8 or (several and {"b", "c"} <= set(windows))
        equal = 0.9 if wrong else 1.0 - 0.0005 * ("c" in windows)
        return Difference(False, dict(windows), 4, equal, int(wrong))

    found = exact_windows(compare, {"a": [8, 4], "b": [6], "c": [6], "d": []})
    assert found == ({"a": 4, "b": 6} if several else {"a": 4, "b": 6, "c": 6})
    assert asked[0] == {"a": 8, "b": 6, "c": 6} and asked[-1] == found


def test_one_patch_has_nothing_to_plan(
    flowship: Terminal, exported: Exporter, tmp_path: Path
) -> None:
    noise = TrainingNoise("gaussian", 0.07)
    config = TarFlowConfig(1, 4, 4, 64, 2, 1, 0, True, 64, 4, noise)
    bundle = exported(write_checkpoint(tmp_path, "one-patch", config))
    assert "is one patch, which takes no call" in flowship.refused("plan", bundle)


def test_places_and_numbers_are_checked_first(flowship: Terminal) -> None:
    assert "no/plan.svg: the folder" in flowship.refused("plan", "--plot", "no/plan.svg")
    assert "'0' is not a number of threads" in flowship.refused("plan", "--threads", "1,0")


def test_like_takes_the_plan_from_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(PlanFile(plan=Plan({"block0": 8, "block2": 5})).dumps())
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    common = ["-q", "--label", "bag", "--seed", "5"]
    assert main(["generate", *common, "--plan", str(plan), "-o", str(first)]) == 0
    assert main(["generate", "-q", "--like", str(first), "-o", str(again)]) == 0
    assert first.read_bytes() == again.read_bytes()
    assert main(["generate", *common, "--plan", str(tmp_path / "none"), "-o", str(first)]) == 2
    assert "does not exist: expected saved, default or a file" in capsys.readouterr().err


def test_a_damaged_saved_plan_is_named() -> None:
    with Flow.open() as flow:
        sha256 = flow.bundle.sha256
    (make_plans_folder() / f"{sha256[:16]}-onnx-fp32-cpu.json").write_text("{")
    with pytest.raises(BundleError, match=f"{sha256[:16]}.*is not JSON"):
        Flow.open()


@pytest.mark.parametrize(
    "text", ['{"plan": {"windows": {"block0": 0}}}', '{"plan": {"tolerance": -1}}']
)
def test_wrong_plans_are_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"a window of 0 patches|tolerance is -1\.0"):
        PlanFile.loads(text)
