"""Waiting for other programs, on recorded readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from command_line import Terminal

from flowship.benchmarks import command
from flowship.benchmarks.quiet import LOOK, QUIET_FOR, Waited, wait_quiet
from flowship.runtime.conditions import CpuTimes, Reading
from flowship.runtime.errors import UsageError


def machine(load: Callable[[float], float]) -> Callable[[], Reading]:
    """Readings LOOK seconds apart of two cores on which other programs use ``load(seconds)``."""

    def readings() -> Iterator[Reading]:
        wall, busy = 0.0, 0.0
        while True:
            yield Reading(wall, 0.0, CpuTimes(busy, 2 * wall - busy, 0.0), 1e-4)
            busy += LOOK * load(wall)
            wall += LOOK

    found = readings()
    return lambda: next(found)


def wait(load: Callable[[float], float], most: float = 60.0) -> tuple[Waited, list[str]]:
    told: list[str] = []
    read = machine(load)
    return wait_quiet(most, lambda _, words: told.append(words), read, lambda _: None), told


def test_a_machine_that_comes_to_rest() -> None:
    found, told = wait(lambda at: 1.0 if at < 10 else 0.05)
    assert found.quiet and found.seconds == 10 + QUIET_FOR
    assert str(found) == "quiet after 13 s: other programs used 0.05 cores"
    assert told[0] == "waiting for quiet: other programs use 1.00 cores"


def test_a_pause_is_no_rest() -> None:
    found, _ = wait(lambda at: 0.0 if at % 4 < 2 else 1.0)
    assert not found.quiet
    assert str(found).startswith("not quiet within 1 min 0 s: other programs used")


def test_what_cannot_be_read_is_refused() -> None:
    read = machine(lambda _: 0.0)
    blind = replace(read(), cpu=None)
    with pytest.raises(UsageError, match="cannot be read here"):
        wait_quiet(60.0, read=lambda: blind)


def test_every_row_says_what_was_seen(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def waited(most: float, tell: object) -> Waited:
        asked.append(most)
        return Waited(most, False, 0.9)

    monkeypatch.setattr(command, "wait_quiet", waited)
    words = ("--no-cold", "--no-limits", "--threads", 1, "--patches", 2, "-r", 3, "--json")
    ran = flowship.ok("bench", "--wait-quiet", "5m", *words)
    assert asked == [300]
    said = "not quiet within 5 min 0 s: other programs used 0.90 cores"
    assert said in ran.err and said in ran.json["rows"][0]["notes"]
