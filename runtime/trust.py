"""How believable a measured time is, and when two differ: the numbers and rules of all commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .conditions import BUSY_CORES, Disturbance
from .stats import drift, median_uncertainty, percentile, ratio_interval, relative_iqr

Trust = Literal["trusted", "noisy", "not trustworthy"]
TRUSTS: tuple[Trust, ...] = ("trusted", "noisy", "not trustworthy")

# -- of one series of samples; the browser has the same numbers ------------------------------------
MIN_SAMPLES, TRUSTED_SAMPLES = 3, 10
MIN_SECONDS = 1.0  # from the first sample to the last: less is one mood of the machine
FLAGGED = (0.1, 0.5)  # share of disturbed samples above which it is noisy, not trustworthy
SPREAD = (0.15, 0.4)  # distance of the quartiles over the median
UNCERTAIN = (0.05, 0.2)  # half the 95 % interval of the median over the median
DRIFT = (0.15, 0.4)  # distance of the medians of five consecutive parts over the median
PULSE = (0.1, 0.4)  # 10 % to 90 % of the machine's own pulse over its median
OTHER_CORES = 0.1  # load of other programs that slows one of two threads by a tenth

# -- of two series ---------------------------------------------------------------------------------
MIN_EFFECT = 0.03  # smaller differences are called the same: code layout alone makes 1-2 %
# Two runs are two moments of the machine. Within five minutes, on two cores of a server, six runs
# of one case that were trusted had medians up to 11 % apart, and 25 runs with other programs at
# work up to 26 %, while the pulse moved by 0.3 %.
BETWEEN_RUNS = 0.15
PULSES_DIFFER = 0.25  # the same where the machine's own pulse was not the same, or is not known
PULSE_EFFECT = 0.03  # a difference of two pulses that counts as one

Levels = list[tuple[int, str]]


@dataclass(frozen=True)
class Series:
    """What a verdict is made of.

    Attributes:
        samples: times in order, all in one unit.
        flags: what disturbed each of them, "" for nothing.
        span_s: seconds from the first sample to the last; None where it is not known.
        pulses: the machine's own pulse around each sample.
        other_cores: median load of other programs.
    """

    samples: Sequence[float]
    flags: Sequence[str] = ()
    span_s: float | None = None
    pulses: Sequence[float] = ()
    other_cores: float | None = None


def series_of(samples: Sequence[float], seen: Sequence[Disturbance], span_s: float) -> Series:
    """Samples with what a watch saw around each of them."""
    others = [d.other_cores for d in seen if d.other_cores is not None]
    cores = percentile(others, 50) if others else None
    return Series(samples, [d.flag for d in seen], span_s, [d.pulse for d in seen], cores)


def judge(series: Series) -> tuple[Trust, tuple[str, ...]]:
    """The verdict on one series, with every reason."""
    return worst(doubts(series))


def worst(found: Levels) -> tuple[Trust, tuple[str, ...]]:
    """The verdict that follows from doubts."""
    return TRUSTS[max((level for level, _ in found), default=0)], tuple(text for _, text in found)


def doubts(series: Series) -> Levels:
    """Reasons not to believe a series, 1 noisy and 2 not trustworthy."""
    return [*disturbed(series), *_few(series), *_scattered(series)]


def disturbed(series: Series) -> Levels:
    """What other programs and the machine did meanwhile."""
    share = sum(bool(flag) for flag in series.flags) / len(series.samples)
    level, others = _level(share, FLAGGED), series.other_cores or 0.0
    used = f"other programs used {others:.2g} cores"
    if level:
        words = sorted({word for flag in series.flags for word in flag.split("+") if word})
        reason = f"{share:.0%} of the samples were disturbed ({', '.join(words)})"
        return [(level, f"{reason}, {used}" if others >= 0.01 else reason)]
    return [(1 + (others > BUSY_CORES), used)] if others > OTHER_CORES else []


def _few(series: Series) -> Levels:
    count, span = len(usable(series.samples, series.flags)), series.span_s
    if count < MIN_SAMPLES:
        return [(2, f"{count} samples are too few, {MIN_SAMPLES} are the least")]
    if count < TRUSTED_SAMPLES:
        return [(1, f"{count} samples, {TRUSTED_SAMPLES} are the least that is trusted")]
    if span is not None and span < MIN_SECONDS:
        return [(1, f"measured for {span:.1g} s, {MIN_SECONDS:g} s are the least that is trusted")]
    return []


def _scattered(series: Series) -> Levels:
    samples = usable(series.samples, series.flags)
    spread, unsure, moved = relative_iqr(samples), median_uncertainty(samples), drift(samples)
    pulse = _pulse_range(series.pulses)
    found = [
        (_level(spread, SPREAD), f"the middle half of the samples is {spread:.0%} wide"),
        (_level(unsure, UNCERTAIN), f"the median is uncertain by ±{unsure:.0%}"),
        (_level(moved, DRIFT), f"the medians of its five parts lie {moved:.0%} apart"),
        (_level(pulse, PULSE), f"times of a fixed computation varied by {pulse:.0%}"),
    ]
    return [(level, reason) for level, reason in found if level]


def _pulse_range(pulses: Sequence[float]) -> float:
    if not pulses:
        return 0.0
    low, middle, high = (percentile(pulses, p) for p in (10, 50, 90))
    return (high - low) / middle if middle > 0 else 0.0


def _level(value: float, limits: tuple[float, float]) -> int:
    return sum(value > limit for limit in limits)


MIN_CLEAN = 5  # samples without a flag that are enough to leave the flagged ones out


def usable(samples: Sequence[float], flags: Sequence[str]) -> tuple[float, ...]:
    """Samples without a flag, if they are MIN_CLEAN and half of all at least; else all of them."""
    clean = tuple(sample for sample, flag in zip(samples, flags, strict=False) if not flag)
    enough = len(clean) >= MIN_CLEAN and 2 * len(clean) >= len(samples)
    return clean if enough else tuple(samples)


Difference = Literal["faster", "slower", "same", "unclear"]


@dataclass(frozen=True)
class Ratio:
    """Time of B over A with its 95 % interval, and what it means.

    Attributes:
        least: the smallest difference that counted.
    """

    ratio: float
    low: float
    high: float
    verdict: Difference
    least: float

    def scaled(self, pulse: float) -> Difference:
        """The verdict if the machine's own pulse had been the same."""
        return difference(self.ratio / pulse, self.low / pulse, self.high / pulse, self.least)


def compared(
    a: Sequence[float], b: Sequence[float], least: float, *, paired: bool = False
) -> Ratio:
    """B against A, of trusted samples."""
    ratio, low, high = ratio_interval(a, b, paired=paired)
    return Ratio(ratio, low, high, difference(ratio, low, high, least), least)


def difference(ratio: float, low: float, high: float, least: float) -> Difference:
    """Slower and faster need an interval without 1 and an effect that counts.

    The same means that no difference as large as ``least`` is there.
    """
    if low > 1 and ratio > 1 + least:
        return "slower"
    if high < 1 and ratio < 1 / (1 + least):
        return "faster"
    inside = 1 / (1 + least) <= ratio <= 1 + least
    narrow = 1 / (1 + 2 * least) <= low and high <= 1 + 2 * least
    return "same" if inside and narrow else "unclear"


def least_between_runs(
    pulses: tuple[float | None, float | None], a: Sequence[float], b: Sequence[float]
) -> float:
    """The smallest difference of two runs on one machine that is not its own drift.

    A machine that moves within a run moves at least as much from one to the next.
    """
    before, after = pulses
    alike = before and after and abs(after / before - 1) <= PULSE_EFFECT
    return max(BETWEEN_RUNS if alike else PULSES_DIFFER, BETWEEN_RUNS + drift(a) + drift(b))
