"""Verdicts on simulated machines: none is firm where nothing differs; what differs is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from flowship.benchmarks.compare import compare_rows
from flowship.benchmarks.row import Row, summarized
from flowship.benchmarks.trust import judged
from flowship.runtime.timing import orders

Doubles = npt.NDArray[np.float64]
Mood = Callable[[np.random.Generator, int], Doubles]  # slowdowns of n samples in a row

COUNT, TRIES = 80, 25


def calm(rng: np.random.Generator, n: int) -> Doubles:
    """2 % of skewed noise."""
    times: Doubles = 1 + 0.01 * rng.gamma(4.0, 1.0, n)
    return times


def wandering(rng: np.random.Generator, n: int) -> Doubles:
    """The clock wanders by a few per cent, slowly; neighbours are alike."""
    steps = rng.normal(0, 0.006, n)
    times: Doubles = calm(rng, n) * np.exp(np.cumsum(steps))
    return times


def bursts(rng: np.random.Generator, n: int) -> Doubles:
    """Another program takes the core a few times, for several samples."""
    times: Doubles = calm(rng, n)
    for start in rng.integers(0, n, 3):
        times[start : start + 5] *= 1.8
    return times


def turbo(rng: np.random.Generator, n: int) -> Doubles:
    """The clock falls by a quarter somewhere, which the pulse shows."""
    times: Doubles = calm(rng, n) * _clock(rng, n)
    return times


def _clock(rng: np.random.Generator, n: int) -> Doubles:
    falls: Doubles = np.where(np.arange(n) < rng.integers(0, n), 1.0, 1.25)
    return falls


def loaded(rng: np.random.Generator, n: int) -> Doubles:
    """Two programs on one core all the time: anything between once and twice as long."""
    times: Doubles = calm(rng, n) * rng.choice([1.0, 1.5, 2.0], n)
    return times


MOODS = (calm, wandering, bursts, turbo, loaded)


def run_of(times: Doubles, **fields: object) -> Row:
    """A row as bench writes it on a machine whose load and pulse say nothing."""
    row = Row(
        model="m",
        engine="onnx",
        samples_ms=tuple(float(t) for t in times),
        span_s=2.0,
        sample_pulses_ms=(0.07,) * len(times),
        machine="x",
    )
    return judged(summarized(replace(row, **fields)))  # type: ignore[arg-type]


def verdicts(pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    found: list[str] = []
    for a, b in pairs:
        (comparison,) = compare_rows([a], [b], ignore=["window"])
        found.append(comparison.verdict)
    return found


def two_runs(mood: Mood, ratio: float) -> list[tuple[Row, Row]]:
    """Two runs of one machine, each with a few per cent of its own."""
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(TRIES):
        own = np.exp(rng.normal(0, 0.03, 2).clip(-0.06, 0.06))
        clocks = [_clock(rng, COUNT) if mood is turbo else np.ones(COUNT) for _ in own]
        rest = calm if mood is turbo else mood
        a, b = (20 * rest(rng, COUNT) * f * clock for f, clock in zip(own, clocks, strict=True))
        left, right = (tuple(float(p) for p in 0.07 * clock) for clock in clocks)
        pairs.append(
            (
                run_of(a, run="a", sample_pulses_ms=left),
                run_of(ratio * b, run="b", sample_pulses_ms=right),
            )
        )
    return pairs


def one_run(mood: Mood, ratio: float, first: float = 1.0) -> list[tuple[Row, Row]]:
    """Two cases that take turns; the mood hits both, and ``first`` is the time of the first."""
    rng = np.random.default_rng(2)
    pairs = []
    for seed in range(TRIES):
        slowdown = mood(rng, 2 * COUNT)
        times: list[list[float]] = [[], []]
        places: list[list[int]] = [[], []]
        for number, order in enumerate(islice(orders(seed, 2), COUNT)):
            for turn, case in enumerate(order):
                place = 2 * number + turn
                advantage = first if turn == 0 else 1.0
                own = ratio if case == 1 else 1.0
                times[case].append(20 * slowdown[place] * advantage * own)
                places[case].append(place)
        a, b = (
            run_of(np.array(t), run="r", window=str(i), sample_places=tuple(p))
            for i, (t, p) in enumerate(zip(times, places, strict=True))
        )
        pairs.append((a, b))
    return pairs


@pytest.mark.parametrize("mood", MOODS, ids=lambda mood: mood.__name__)
@pytest.mark.parametrize("setting", [two_runs, one_run], ids=lambda setting: setting.__name__)
def test_nothing_differs_and_nothing_is_said_to(
    mood: Mood, setting: Callable[[Mood, float], list[tuple[Row, Row]]]
) -> None:
    found = verdicts(setting(mood, 1.0))
    assert set(found) <= {"same", "unclear"}
    if mood is calm:
        assert found.count("same") > 0.9 * TRIES


@pytest.mark.parametrize("advantage", [0.6, 0.9])
def test_the_first_of_a_turn_has_no_advantage(advantage: float) -> None:
    assert set(verdicts(one_run(calm, 1.0, advantage))) <= {"same", "unclear"}


@pytest.mark.parametrize("ratio", [1.3, 1 / 1.3])
@pytest.mark.parametrize("setting", [two_runs, one_run], ids=lambda setting: setting.__name__)
def test_a_third_is_found(
    ratio: float, setting: Callable[[Mood, float], list[tuple[Row, Row]]]
) -> None:
    found = verdicts(setting(calm, ratio))
    assert found.count("slower" if ratio > 1 else "faster") == TRIES


def test_in_one_run_a_tenth_is_found_though_the_machine_wanders() -> None:
    found = verdicts(one_run(wandering, 1.1))
    assert set(found) <= {"slower", "unclear"}
    assert found.count("slower") > 0.8 * TRIES


def test_turns_are_shuffled_and_balanced() -> None:
    rounds = list(islice(orders(3, 5), 400))
    assert all(sorted(order) == list(range(5)) for order in rounds)
    assert rounds == list(islice(orders(3, 5), 400)) != list(islice(orders(4, 5), 400))
    assert len({tuple(order) for order in rounds}) > 80
    places = np.array([[order.index(case) for case in range(5)] for order in rounds])
    assert (places.mean(axis=0) == 2.0).all()  # a round and its reverse
