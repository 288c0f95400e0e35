"""Samples to verdicts: statistics, flags from recorded readings, trust, comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flowship.benchmarks.ahead import Ahead
from flowship.benchmarks.compare import compare_rows, regressions, select
from flowship.benchmarks.row import Row, summarized
from flowship.benchmarks.trust import judged, psnr_floor
from flowship.benchmarks.turns import Effort, sampled_row
from flowship.runtime.conditions import (
    CpuTimes,
    Disturbance,
    Reading,
    Watch,
    disturbance,
    parse_proc_stat,
    read_now,
)
from flowship.runtime.errors import UsageError
from flowship.runtime.stats import median_uncertainty, ratio_interval, relative_iqr
from flowship.runtime.trust import usable

STAT = """cpu  10000 200 3000 80000 400 10 90 300 0 0
cpu0 5000 100 1500 40000 200 5 45 150 0 0
ctxt 12345
"""


def samples(median: float, spread: float, count: int = 40, seed: int = 0) -> tuple[float, ...]:
    """Skewed times around a median."""
    noise = np.random.default_rng(seed).gamma(4.0, 1.0, count)
    return tuple(median * (1 + spread * (noise - np.median(noise))))


def row(times: tuple[float, ...], **fields: object) -> Row:
    found = summarized(Row(model="m", engine="onnx", precision="fp32", samples_ms=times))
    return judged(replace(found, **fields))  # type: ignore[arg-type]


def test_statistics_of_known_samples() -> None:
    times = [float(n) for n in range(1, 102)]
    found = summarized(Row(model="m", engine="e", samples_ms=tuple(times), num_patches=51))
    assert (found.median_ms, found.p90_ms, found.p99_ms, found.min_ms) == (51, 91, 100, 1)
    assert found.spread == pytest.approx(50 / 51)
    assert found.patches_per_s == pytest.approx(1000)
    assert relative_iqr([3.0] * 5) == 0
    assert median_uncertainty([3.0] * 5) == 0
    assert median_uncertainty(times) == pytest.approx(10 / 51, abs=0.01)


def test_the_interval_is_the_same_every_time_and_holds_the_ratio() -> None:
    a, b = samples(20, 0.02), samples(22, 0.02, seed=1)
    assert ratio_interval(a, b) == ratio_interval(a, b)
    ratio, low, high = ratio_interval(a, b)
    assert low < ratio < high
    assert ratio == pytest.approx(1.1, abs=0.03)


def test_proc_stat_of_linux() -> None:
    times = parse_proc_stat(STAT, 100)
    assert times == CpuTimes(busy=133.0, idle=804.0, steal=3.0)


@pytest.mark.parametrize(
    ("busy", "steal", "slowdown", "flag"),
    [
        (1.0, 0.0, 1.0, ""),  # our own second of work
        (1.9, 0.0, 1.0, "busy"),
        (1.0, 0.1, 1.0, "steal"),
        (1.0, 0.0, 1.33, "throttled"),
        (2.0, 0.2, 1.5, "busy+steal+throttled"),
    ],
)
def test_recorded_readings_are_flagged(
    busy: float, steal: float, slowdown: float, flag: str
) -> None:
    before = Reading(0.0, 0.0, CpuTimes(100.0, 900.0, 1.0), 0.001)
    later = CpuTimes(100.0 + busy, 900.0 + 2 - busy - steal, 1.0 + steal)
    after = Reading(1.0, 1.0, later, 0.001 * slowdown)
    assert disturbance(before, after, 0.001).flag == flag


def test_samples_of_a_window_share_its_disturbance() -> None:
    quiet, loud = CpuTimes(1.0, 1.0, 0.0), CpuTimes(2.9, 1.1, 0.0)
    readings = iter([Reading(-1.0, 0, quiet, 1e-3), Reading(0.0, 0, loud, 1e-3)])
    watch = Watch(lambda: next(readings))
    assert watch.sampled() == 0  # a second after the first reading: closes the window
    assert [d.flag for d in watch.disturbances()] == ["busy"]


def test_a_moment_of_turbo_is_not_the_norm() -> None:
    """One calibration in ten is 15 % faster; a machine that slows down midway is still seen."""
    cpu = CpuTimes(1.0, 1.0, 0.0)

    def flags(calibrations: Sequence[float]) -> list[str]:
        readings = iter([Reading(float(-i), 0.0, cpu, c) for i, c in enumerate(calibrations)])
        watch = Watch(lambda: next(readings))
        for _ in calibrations[1:]:
            watch.sampled()
        return [d.flag for d in watch.disturbances()]

    assert set(flags([0.85, *[1.0] * 9])) == {""}
    assert flags([1.0] * 5 + [1.3] * 5) == [""] * 4 + ["throttled"] * 5


def test_a_real_reading_has_sense() -> None:
    before, after = read_now(), read_now()
    assert after.wall > before.wall
    assert after.own >= before.own
    assert 0 < before.calibration < 1


def test_flagged_samples_are_left_out_while_enough_remain() -> None:
    times, flags = (1.0,) * 8 + (9.0,) * 4, ("",) * 8 + ("busy",) * 4
    assert usable(times, flags) == times[:8]
    assert usable(times, ("busy",) * 12) == times


def test_a_series_that_moves_is_noisy() -> None:
    """Each part is calm; the machine was another one in the last of them."""
    times = samples(20, 0.01)[:32] + samples(26, 0.01, seed=1)[:8]
    found = row(times)
    assert found.trust == "noisy"
    assert found.trust_reasons == ("the medians of its five parts lie 32% apart",)


def test_trust_of_few_samples_and_of_short_moments() -> None:
    assert row(samples(20, 0.01)[:9]).trust_reasons == (
        "9 samples, 10 are the least that is trusted",
    )
    assert row(samples(20, 0.01), span_s=0.8).trust == "noisy"
    assert row(samples(20, 0.01), span_s=1.2).trust == "trusted"
    assert row(samples(20, 0.01), other_cores=0.2).trust == "noisy"
    pulses = (0.1,) * 20 + (0.13,) * 20
    assert row(samples(20, 0.01), sample_pulses_ms=pulses).trust == "noisy"


def test_trust() -> None:
    good = row(samples(20, 0.01))
    assert good.trust == "trusted"
    busy = row(good.samples_ms, sample_flags=("busy",) * 40, other_cores=0.9)
    assert busy.trust == "not trustworthy"
    assert "other programs used 0.9 cores" in busy.trust_reasons[0]
    assert row(samples(20, 0.08)).trust == "noisy"
    assert row((20.0, 20.0)).trust == "not trustworthy"
    assert row(good.samples_ms, power="battery 57 %").trust == "noisy"
    wrong = row(good.samples_ms, psnr_db=60.0)
    assert wrong.trust == "not trustworthy"
    assert "wrong picture" in wrong.trust_reasons[0]
    assert row(good.samples_ms, psnr_db=30.0, precision="int4").trust == "trusted"


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, "same"), (1.3, "slower"), (0.7, "faster"), (1.05, "same"), (0.9, "same")],
)
def test_verdicts_of_two_runs(ratio: float, verdict: str) -> None:
    """Two moments of one machine differ by more than code does."""
    a = row(samples(20, 0.01), calibration_ms=0.1, machine="x")
    b = row(samples(20 * ratio, 0.01, seed=1), calibration_ms=0.1, machine="x")
    (found,) = compare_rows([a], [b])
    assert found.verdict == verdict
    assert found.least and 0.15 <= found.least < 0.2
    assert bool(regressions([found], 0.05)) == (ratio == 1.3)
    unknown = replace(b, calibration_ms=None)
    (found,) = compare_rows([a], [unknown])
    assert (found.verdict, found.least) == (verdict, 0.25)


def test_scattered_samples_are_unclear() -> None:
    a, b = row(samples(20, 0.2, 12)), row(samples(20.5, 0.2, 12, seed=1))
    assert compare_rows([a], [b])[0].verdict == "unclear"


@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_trusted_gets_no_firm_verdict(side: int) -> None:
    pair = [row(samples(20, 0.01)), row(samples(60, 0.01, seed=1))]
    for doubt in ({"sample_flags": ("busy",) * 40}, {"span_s": 0.3}, {"interrupted": True}):
        doubted = pair.copy()
        doubted[side] = row(pair[side].samples_ms, **doubt)
        (found,) = compare_rows(doubted[:1], doubted[1:])
        assert found.verdict == "unclear"
        assert found.reasons[0].startswith("AB"[side] + ": ")
    claimed = replace(pair[side], trust="noisy", trust_reasons=("the phone was hot",))
    pair[side] = claimed  # what a device says of itself is not overruled
    assert compare_rows(pair[:1], pair[1:])[0].verdict == "unclear"


def test_a_machine_that_was_slower_itself_is_no_regression() -> None:
    a = row(samples(20, 0.01), calibration_ms=0.10, machine="x")
    b = row(samples(26, 0.01, seed=1), calibration_ms=0.13, machine="x")
    (found,) = compare_rows([a], [b])
    assert found.verdict == "unclear"
    assert any("a fixed computation took x 1.30" in reason for reason in found.reasons)


def test_a_wrong_picture_fails_whatever_its_time() -> None:
    a, b = row(samples(20, 0.01)), row(samples(10, 0.01), psnr_db=20.0)
    (found,) = compare_rows([a], [b])
    assert found.verdict == "unclear"
    assert regressions([found], 0.05) == [found]


def test_the_floor_of_a_picture() -> None:
    assert [psnr_floor(precision) for precision in ("fp32", "int8", "int4", None)] == [
        90,
        40,
        10,
        10,
    ]
    assert (
        psnr_floor("int4", 30.0) == 20
        and psnr_floor("mixed", 12.0) == 10
        and psnr_floor("fp16", 55.0) == 45
    )
    assert psnr_floor("fp32", 128.0) == 90
    low = row(samples(20, 0.01), precision="int4", psnr_db=15.0, psnr_floor_db=20.0)
    assert "wrong picture: 15.0 dB, int4 needs 20 dB" in low.trust_reasons
    assert row(low.samples_ms, precision="int4", psnr_db=15.0).trust == "trusted"
    single = replace(low, psnr_median_db=30.0)  # one that amplifies every rounding
    assert judged(replace(single, trust_reasons=())).trust == "trusted"


def test_a_picture_far_below_that_of_a_is_wrong() -> None:
    """Also of rows that know no floor, such as a phone's."""
    a = row(samples(20, 0.01), precision="pal4", psnr_db=30.0, seed=7)
    b = row(samples(20, 0.01), precision="pal4", psnr_db=19.0, seed=7)
    (found,) = compare_rows([a], [b])
    assert found.wrong and regressions([found], 0.05) == [found]
    for other in (replace(b, psnr_db=21.0), replace(b, seed=8), replace(b, psnr_floor_db=18.0)):
        assert not compare_rows([a], [other])[0].wrong


def test_cases_that_b_lacks_or_could_not_run() -> None:
    a = [row(samples(20, 0.01), threads=n) for n in (1, 2, 3)]
    broken = Row(model="m", engine="onnx", status="failed", reason="no memory", threads=2)
    found = compare_rows(a, [a[0], broken])
    assert [c.verdict for c in found] == ["same", "failed", "missing"]
    assert found[1].reasons == ("B: failed: no memory",)
    assert regressions(found, 0.05) == found[1:]
    (last,) = compare_rows(a[1:2], [a[1], broken])  # a file that grew
    assert last.verdict == "failed"
    assert compare_rows(a[1:2], [broken, a[1]])[0].verdict == "same"
    skipped = Row(model="m", engine="onnx", status="skipped", reason="not installed")
    (only,) = compare_rows(a[:1], [skipped])  # all of B: nothing to compare, and no misuse
    assert only.verdict == "failed"


def test_cases_are_matched_by_their_settings() -> None:
    a = [row(samples(20, 0.01), threads=1), row(samples(12, 0.01), threads=2)]
    assert [c.verdict for c in compare_rows(a, a)] == ["same", "same"]
    with pytest.raises(UsageError, match="differ in threads: say --ignore threads"):
        compare_rows(a[:1], a[1:])
    (found,) = compare_rows(select(a, ["threads=1"]), select(a, ["threads=2"]), ignore=["threads"])
    assert found.verdict == "faster"
    with pytest.raises(UsageError, match="no row has threads=3"):
        select(a, ["threads=3"])
    with pytest.raises(UsageError, match="not FIELD=VALUE"):
        select(a, ["colour=red"])


def test_what_is_left_counts_checks_and_cases_to_come() -> None:
    now = 0.0
    ahead = Ahead(4, lambda: now)
    ahead.refused()
    now = 10.0
    # 10 s are over and 4 + 6 + 2 * 5 left of two cases; a third is as long as half of these 30
    assert ahead.fraction([4.0, 6.0], 2, 5.0) == pytest.approx(10 / 45)
    now = 20.0
    assert ahead.fraction([], 2, 5.0) == pytest.approx(20 / 45)  # not "100 %, 0 s left"
    ahead.checked(10.0)
    now = 30.0
    assert ahead.fraction([], 1, 5.0) == pytest.approx(30 / 60)  # a check takes 10 s
    ahead.checked(10.0)
    now = 40.0
    assert ahead.fraction([10.0], 1, 5.0) == pytest.approx(40 / 60)
    ahead.checked(10.0)
    assert ahead.fraction([], 0, 5.0) == 1.0


def test_runs_left_follow_from_what_ends_a_case() -> None:
    effort = Effort(min_repeats=10, max_repeats=200, max_seconds=10.0, uncertainty=0.01)
    noisy = [1.0, 2.0] * 5
    assert effort.runs_left([], 0.0) == 10
    assert effort.runs_left([1.0] * 4, 0.4) == 6  # sure already, but for the least number
    assert effort.runs_left(noisy, 5.0) == pytest.approx(10)  # time ends it
    assert effort.runs_left(noisy, 0.1) == pytest.approx(190)  # the most repeats do
    uncertainty = median_uncertainty(noisy)
    four = replace(effort, uncertainty=uncertainty / 2)  # half of it takes four times as many
    assert four.runs_left(noisy, 0.1) == pytest.approx(30)
    assert effort.runs_left([1.0] * 10, 0.1) == 0


def test_what_was_stolen_from_a_few_samples_shows() -> None:
    """The reason says steal: the number beside it is not 0."""
    seen = [Disturbance(0.0, 0.2 * (i < 2), 1.0, 1e-4) for i in range(10)]
    watch = SimpleNamespace(disturbances=lambda: seen, calibration_ms=0.1)
    job = SimpleNamespace(
        row=Row(model="m", engine="onnx"),
        numbers=list(range(10)),
        seconds=[0.1] * 10,
        joules=[],
        meter=None,
        span_s=1.0,
    )
    found = judged(sampled_row(job, watch, Effort(), 1))  # type: ignore[arg-type]
    assert found.steal == pytest.approx(0.04)
    assert "steal" in " ".join(found.trust_reasons)
