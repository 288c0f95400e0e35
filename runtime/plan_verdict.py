"""Whether a chosen plan is faster than sequential sampling: whole pictures in turns, judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .conditions import Watch
from .flow import Flow
from .reasons import wording
from .stats import relative_iqr
from .timing import decode_once, orders
from .trust import (
    MIN_EFFECT,
    MIN_SECONDS,
    TRUSTED_SAMPLES,
    TRUSTS,
    Difference,
    Series,
    Trust,
    compared,
    judge,
    series_of,
)

MOST_SECONDS = 60.0  # of one kind of picture: ten of 2 s in turns with ten others


@dataclass(frozen=True)
class PictureTimes:
    """Pictures with the plan and sequential ones, timed after the plan was chosen.

    The search keeps the fastest of several candidates, so its own times are too good.

    Attributes:
        guided: with guidance.
        planned_ms, sequential_ms: medians; equal where no block has a window.
        spread: distance of the quartiles over the median, of the wider of the two.
        ratio, low, high: time of the plan over sequential time with its 95 % interval; None where
            both are the same thing.
        verdict: whether the plan is faster; ``unclear`` where the times are not trusted.
    """

    guided: bool
    planned_ms: float
    sequential_ms: float
    spread: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Difference
    trust: Trust
    reasons: tuple[str, ...]


def time_plan(planned: Flow, sequential: Flow, *, guided: bool) -> PictureTimes:
    """Let the two flows take turns in shuffled order."""
    names = [block.name for block in planned.spec.ar_blocks]
    windows = [planned.plan.window(name, guided) for name in names]
    return time_flows([planned, sequential] if max(windows) > 1 else [sequential], guided=guided)


def time_flows(
    flows: Sequence[Flow], *, guided: bool, names: tuple[str, str] = ("planned", "sequential")
) -> PictureTimes:
    """The first against the last; one alone is compared with nothing.

    Args:
        names: of the two in reasons.
    """
    series = sample_pictures(flows, guided=guided)
    trusts = [judge(each) for each in series]
    trust = max((found for found, _ in trusts), key=TRUSTS.index)
    reasons = _whose([found for _, found in trusts], names)
    first, last = series[0].samples, series[-1].samples
    milliseconds = 1000 * median(first), 1000 * median(last)
    spread = max(relative_iqr(each.samples) for each in series)
    if len(flows) == 1:
        return PictureTimes(guided, *milliseconds, spread, None, None, None, "same", trust, reasons)
    found = compared(last, first, MIN_EFFECT, paired=True)
    verdict: Difference = found.verdict if trust == "trusted" else "unclear"
    numbers = spread, found.ratio, found.low, found.high
    return PictureTimes(guided, *milliseconds, *numbers, verdict, trust, reasons)


def _whose(reasons: Sequence[Sequence[str]], names: tuple[str, str]) -> tuple[str, ...]:
    """The reasons with the name of their pictures; what differs in numbers alone is said once."""
    if len(reasons) == 1:
        return tuple(reasons[0])
    others = [{wording(reason) for reason in found} for found in reversed(reasons)]
    found: dict[tuple[str, str], str] = {}
    for own, other, name in zip(reasons, others, names, strict=True):
        for reason in own:
            whose = "both" if wording(reason) in other else name
            found.setdefault((whose, wording(reason)), f"{whose}: {reason}")
    return tuple(found.values())


def sample_pictures(flows: Sequence[Flow], *, guided: bool) -> list[Series]:
    """Seconds of pictures of each flow, taken in shuffled turns until there are enough to trust."""
    for flow in flows:
        decode_once(flow, guided)  # opens what is opened once
    watch, start = Watch(), time.perf_counter()
    times: list[list[float]] = [[] for _ in flows]
    numbers: list[list[int]] = [[] for _ in flows]
    for order in orders(0, len(flows)):
        for i in order:
            times[i].append(decode_once(flows[i], guided))
            numbers[i].append(watch.sampled())
        span = time.perf_counter() - start
        enough = len(times[0]) >= TRUSTED_SAMPLES and span > MIN_SECONDS
        if enough or span > MOST_SECONDS:
            break
    found = watch.disturbances()
    pairs = zip(times, numbers, strict=True)
    return [series_of(own, [found[number] for number in at], span) for own, at in pairs]
