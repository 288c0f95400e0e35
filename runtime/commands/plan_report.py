"""What ``flowship plan`` prints: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..exactness import MAX_LEVELS, MIN_EQUAL, Difference
from ..plan_settling import AGAIN, Settled
from ..plan_verdict import PictureTimes
from ..planner import Option, planned_seconds, sequential_seconds
from ..table import format_table


def plan_report(name: str, settled: Settled, saved: Path | None, conditions: str) -> dict[str, Any]:
    """Seconds are of one picture: the sum of its calls, and where it was timed the whole of it.

    The search's own seconds are those that it chose by; ``verdicts`` were measured afterwards, of
    the windows that it chose, and ``kept`` says why they or its threads are not in the plan.
    """
    best = settled.best
    return {
        "bundle": name,
        "threads": best.threads,
        "spinning": best.spinning,
        "plan": asdict(settled.plan),
        "kept": settled.kept,
        "seconds": planned_seconds(best.plain),
        "measured_seconds": best.pictures[0],
        "sequential_seconds": sequential_seconds(best.plain),
        "measured_sequential_seconds": best.sequential_pictures[0],
        "guided_seconds": planned_seconds(best.guided),
        "guided_measured_seconds": best.pictures[1],
        "guided_sequential_seconds": sequential_seconds(best.guided),
        "guided_measured_sequential_seconds": best.sequential_pictures[1],
        "options": [asdict(option) for option in best.plain + best.guided],
        "comparisons": [{**asdict(d), "passed": d.passed} for d in best.differences],
        "verdicts": [asdict(times) for times in settled.times],
        "conditions": conditions,
        "saved": str(saved) if saved else None,
    }


def print_plan(
    name: str, settled: Settled, saved: Path | None, conditions: str, *, asked: bool
) -> None:
    """A table without and one with guidance, what was compared, and what happens with it.

    Args:
        asked: whether it was to be saved; where that failed, an error follows.
    """
    best = settled.best
    for guided, options in enumerate((best.plain, best.guided)):
        threads = f"{best.threads} thread{'s' * (best.threads > 1)}{', spinning' * best.spinning}"
        print(f"{name}, {('without', 'with')[guided]} guidance, {threads}")
        own = [d for d in best.differences if d.guided == bool(guided)]
        print(_table(options, [d for d in own if not d.passed]))
        timed = next((times for times in settled.times if times.guided == bool(guided)), None)
        print(f"a picture: {_times(timed) if timed else _estimate(options)}")
        print("".join(f"{line}\n" for line in map(_in_words, own)))
    print(
        f"conditions: {conditions}; calls are medians of bursts that take turns, without a verdict"
    )
    print("".join(f"{line}\n" for line in [*settled.kept, *_without_windows(settled)]), end="")
    if saved:
        print(f"saved as {saved}")
    elif not asked:
        print("not saved: --save makes generate use it")


def _without_windows(settled: Settled) -> list[str]:
    """Why the plan has none, where that is not said of those that were given up."""
    plan = settled.plan
    if settled.kept or max([1, *plan.windows.values(), *plan.guided_windows.values()]) > 1:
        return []
    failed = any(not d.passed for d in settled.best.differences)
    but = " with the pictures of sequential sampling (--inexact takes others)" if failed else ""
    if settled.busy:
        why = f"not clear on this busy machine ({settled.busy}; {AGAIN})"
        return [f"whether a window pays{but} is {why}: sequential is kept"]
    return [f"no window pays on this device{but}: sampling stays sequential"]


def _times(times: PictureTimes) -> str:
    """Such as ``15.2 ms planned, 20.3 ms sequential: faster, 1.34x (95 %: 1.30 to 1.37)``."""
    trust = f"{times.trust}, spread {times.spread:.0%}"
    why = "".join(f"; {reason}" for reason in times.reasons)
    if not times.ratio or not times.low or not times.high:
        return f"{times.sequential_ms:.1f} ms, sequential ({trust}{why})"
    ratio, low, high = 1 / times.ratio, 1 / times.high, 1 / times.low
    return (
        f"{times.planned_ms:.1f} ms planned, {times.sequential_ms:.1f} ms sequential: "
        f"{times.verdict}, {ratio:.2f}x (95 %: {low:.2f} to {high:.2f}; {trust}{why})"
    )


def _estimate(options: Sequence[Option]) -> str:
    how = "the sum of its calls, without a verdict: whole ones are not timed above 2 s"
    sequential = f"{1000 * sequential_seconds(options):.1f} ms sequential"
    if all(option.window == 1 for option in options if option.chosen):
        return f"{sequential} ({how})"
    return f"{1000 * planned_seconds(options):.1f} ms planned, {sequential} ({how})"


def _in_words(difference: Difference) -> str:
    windows = ", ".join(f"{stage} {window}" for stage, window in difference.windows.items())
    several = "s" * (difference.pictures > 1)
    unequal = f"{1 - difference.equal:.2%} of the 8-bit values differ, by up to {difference.levels}"
    found = "none of the 8-bit values differs" if difference.levels == 0 else unequal
    limit = f"at most {1 - MIN_EQUAL:.1%} may, by {MAX_LEVELS}"
    ending = "" if difference.passed else f": refused, {limit}"
    return (
        f"  {difference.pictures} picture{several} against sequential sampling, windows {windows}: "
        f"{found}{ending}"
    )


def _table(options: Sequence[Option], failed: Sequence[Difference]) -> str:
    """A row for each window; milliseconds of every block, the chosen one with a star."""
    refused = [next(iter(d.windows.items())) for d in failed if len(d.windows) == 1]
    stages = list(dict.fromkeys(option.stage for option in options))
    rows = []
    for window in sorted({option.window for option in options}):
        found = {option.stage: option for option in options if option.window == window}
        calls = "/".join(
            f"{1e6 * t:.0f}" for t in dict.fromkeys(o.call_seconds for o in found.values())
        )
        marks = {s: "*" if found[s].chosen else "x" * ((s, window) in refused) for s in stages}
        cells = [
            f"{1000 * found[s].block_seconds:.2f}{marks[s] or ' '} ({found[s].committed:.2f})"
            for s in stages
        ]
        rows.append([f"  {window}", calls, *cells])
    legend = "ms of a block (patches a call commits), * chosen" + ", x refused" * bool(refused)
    return f"{format_table(['  window', 'us a call', *stages], rows)}\n  {legend}"
