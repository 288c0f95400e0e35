"""Two sets of rows compared case by case, from their samples: faster, slower, same or unclear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Literal

from ..runtime.errors import UsageError
from ..runtime.trust import (
    MIN_EFFECT,
    MIN_SAMPLES,
    PULSE_EFFECT,
    compared,
    least_between_runs,
    usable,
)
from .row import Row
from .trust import MARGIN_DB, PSNR_FLOORS, believed, is_wrong

UNCLEAR = 3  # exit status of what cannot tell
Verdict = Literal["faster", "slower", "same", "unclear", "failed", "missing"]

KEY: tuple[str, ...] = (
    *("model", "engine", "precision", "device", "threads", "spinning", "window", "guidance"),
    *("extrapolated_patches", "machine"),
)


@dataclass(frozen=True)
class Comparison:
    """One case in A and in B.

    Attributes:
        ratio: median time of B over that of A, with its 95 % interval ``low`` to ``high``.
        verdict: ``failed`` where B could not run the case, ``missing`` where it has none such;
            ``unclear`` where either side is not trusted, or the samples do not decide.
        reasons: why the verdict is not clearer, and what else a reader has to know.
        wrong: B's picture is not the model's.
        least: differences below it are called the same: 3 % in one run, where the cases took
            turns, and more between two.
        rounds: that both have undisturbed, where the cases took turns: the medians are of these;
            None where they are of all usable samples.
    """

    name: str
    a_ms: float | None
    b_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    wrong: bool = False
    least: float | None = None
    rounds: int | None = None


def select(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Rows whose fields have the values of ``field=value`` texts.

    Raises:
        UsageError: no such field, or nothing is left.
    """
    found = list(rows)
    for field, value in map(split_condition, conditions):
        found = [row for row in found if _text(getattr(row, field)) == value]
    if not found:
        raise UsageError(f"no row has {', '.join(conditions)}" if conditions else "no rows")
    return found


def split_condition(condition: str) -> tuple[str, str]:
    """``engine=onnx`` to its field and value."""
    field, equals, value = condition.partition("=")
    if not equals or field not in Row.__dataclass_fields__:
        fields = ", ".join(KEY)
        raise UsageError(f"{condition!r} is not FIELD=VALUE with a field such as {fields}")
    return field, value


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def compare_rows(
    a: Sequence[Row],
    b: Sequence[Row],
    *,
    ignore: Sequence[str] = (),
    min_effect: float = MIN_EFFECT,
) -> list[Comparison]:
    """Every case of A beside B's; a field in ``ignore`` may differ between the two.

    Several rows of one case count as one: their samples are put together. ``min_effect`` raises
    what counts as a difference; below what the rows can tell it does not lower it.

    Raises:
        UsageError: no case is in both, or a case is of two bundles.
    """
    fields = [field for field in KEY if field not in ignore]
    left, right = _by_case(a, fields), _by_case(b, fields)
    common = [key for key in left if key in right]
    broken = {key: row for key in left if (row := _broken(key, b, fields))}
    if not common and not broken and len(left) == len(right) == 1:
        wanted = _differing(next(iter(left)), next(iter(right)), fields)
        raise UsageError(f"A and B differ in {wanted}: say --ignore {wanted} to compare them")
    if not common and not broken:
        raise UsageError(
            f"no case is in both A and B: they are told apart by {', '.join(fields)} (--ignore "
            "leaves some out)"
        )
    return [
        _compare(left[key], right[key], min_effect)
        if key in right and key not in broken
        else _not_measured(left[key], broken.get(key))
        for key in left
    ]


def _broken(key: tuple[object, ...], rows: Sequence[Row], fields: Sequence[str]) -> Row | None:
    """The last row of a case, if it could not run; it may not know all of its settings then."""
    last = None
    for row in rows:
        unknown = (None,) if row.status != "ok" else ()
        pairs = zip(key, (getattr(row, field) for field in fields), strict=True)
        if all(own == wanted or own in unknown for wanted, own in pairs):
            last = row
    return last if last and last.status != "ok" else None


def _not_measured(a: Sequence[Row], b: Row | None) -> Comparison:
    verdict: Verdict = "failed" if b else "missing"
    reason = f"B: {b.status}: {b.reason}" if b else "B has no such case"
    return Comparison(a[0].name, a[0].median_ms, None, None, None, None, verdict, (reason,))


def _differing(a: tuple[object, ...], b: tuple[object, ...], fields: Sequence[str]) -> str:
    triples = zip(a, b, fields, strict=True)
    return ",".join(field for left, right, field in triples if left != right)


def _by_case(rows: Sequence[Row], fields: Sequence[str]) -> dict[tuple[object, ...], list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.status == "ok" and row.is_speed and (row.samples_ms or row.median_ms):
            found.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    for cases in found.values():
        if len({row.model_sha256 for row in cases if row.model_sha256}) > 1:
            raise UsageError(
                f"two bundles are called {cases[0].model}: choose one with --a or --b "
                f"model_sha256={cases[0].model_sha256}"
            )
    return found


def _compare(a: list[Row], b: list[Row], min_effect: float) -> Comparison:
    left, right, paired = _samples(a, b)
    one = _is_one(a, b)
    sides = () if one else (("A", a), ("B", b))
    reasons = [f"{side}: {reason}" for side, rows in sides for reason in _doubts(rows)]
    wrong = any(is_wrong(row) for row in b) or _far_below(a, b)
    if _far_below(a, b):
        reasons.append(f"B: its picture is over {MARGIN_DB:g} dB farther from float32 than A's")
    name = f"{a[0].name} / {b[0].name}" if a[0].name != b[0].name else a[0].name
    if min(len(left), len(right)) < MIN_SAMPLES:
        reasons.append(f"{len(left)} and {len(right)} samples, {MIN_SAMPLES} each are the least")
        pair = (a[0].median_ms, b[0].median_ms)
        ratio = pair[1] / pair[0] if pair[0] and pair[1] else None
        return Comparison(name, *pair, ratio, None, None, "unclear", tuple(reasons), wrong)
    pulses = _pulse(a), _pulse(b)
    least, why = min_effect, ["one measurement: both are the same"] * one
    if not paired and not one:
        least, why = _between_runs(least_between_runs(pulses, left, right), pulses, min_effect)
    found = compared(left, right, least, paired=paired or one)
    verdict: Verdict = "same" if one else found.verdict
    if pulses[0] and pulses[1] and not (paired or one) and a[0].machine == b[0].machine:
        # The machine itself differed: believed only what holds with and without that difference.
        pulse = pulses[1] / pulses[0]
        if found.scaled(pulse) != verdict:
            verdict = "unclear"
            reasons.append(
                f"a fixed computation took x {pulse:.2f} in B, and without that the verdict is "
                "another"
            )
    reasons += why
    doubted = any(row.trust != "trusted" for row in map(believed, chain(a, b)))
    if wrong or any(is_wrong(row) for row in a) or (doubted and not one):
        verdict = "unclear"
    rounds = len(left) if paired else None
    numbers = median(left), median(right), found.ratio, found.low, found.high
    return Comparison(name, *numbers, verdict, tuple(reasons), wrong, least, rounds)


def _samples(a: list[Row], b: list[Row]) -> tuple[list[float], list[float], bool]:
    """Usable samples of both, and whether sample i of one belongs to sample i of the other."""
    if not _took_turns(a, b):
        left, right = ([s for row in rows for s in row.usable_ms] for rows in (a, b))
        return left, right, False
    pairs = list(zip(a[0].samples_ms, b[0].samples_ms, strict=False))  # one of each round
    flags = list(zip(a[0].sample_flags, b[0].sample_flags, strict=False))
    either = ["+".join(filter(None, pair)) for pair in flags]
    left, right = ([*usable([pair[i] for pair in pairs], either)] for i in (0, 1))
    return left, right, True


def _took_turns(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """Both are one row of one run, whose samples alternate."""
    if len(a) != 1 or len(b) != 1 or not a[0].run or a[0].run != b[0].run:
        return False
    left, right = a[0].sample_places, b[0].sample_places
    return bool(left and right) and left[0] < right[-1] and right[0] < left[-1]


def _is_one(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """Both are one measurement: copies of a file, or two names of one case."""
    left, right = ([(row.samples_ms, row.sample_places) for row in rows] for rows in (a, b))
    return left == right and all(samples for samples, _ in left)


def _between_runs(
    least: float, pulses: tuple[float | None, float | None], effect: float
) -> tuple[float, list[str]]:
    """The smallest difference that counts, and why it is more than was asked for."""
    if effect >= least:
        return effect, []
    how = "how long a fixed computation took is not known of both"
    if pulses[0] and pulses[1]:
        change = pulses[1] / pulses[0]
        alike = abs(change - 1) <= PULSE_EFFECT
        how = "a fixed computation took " + ("as long in both runs" if alike else "another time")
        how += f", x {change:.2f}"
    words = f"not measured in turns in one run ({how})"
    return least, [f"{words}: differences below {least:.0%} do not count"]


def _far_below(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """B's picture is far worse than A's of the same seed, and no floor says how bad it may be."""
    left = [row.psnr_db for row in a if row.psnr_db is not None]
    right = [r.psnr_db for r in b if r.psnr_db is not None and r.psnr_floor_db is None]
    same = len({(row.precision, row.seed, row.label) for row in [*a, *b]}) == 1
    floor = PSNR_FLOORS.get(b[0].precision or "", 0.0)
    if not (same and left and right) or (floor and min(right) >= floor):
        return False
    return min(right) < min(left) - MARGIN_DB


def _doubts(rows: Sequence[Row]) -> list[str]:
    found = [row for row in map(believed, rows) if row.trust != "trusted"]
    reasons = [reason for row in found for reason in row.trust_reasons]
    return list(dict.fromkeys(reasons))


def _pulse(rows: Sequence[Row]) -> float | None:
    """Of the machine while the rows were measured; None where it is not known."""
    pulses = [pulse for row in rows for pulse in row.sample_pulses_ms]
    pulses = pulses or [row.calibration_ms for row in rows if row.calibration_ms]
    return median(pulses) if pulses else None


def regressions(found: Sequence[Comparison], limit: float) -> list[Comparison]:
    """Cases that are slower by more than ``limit`` (0.05 is 5 %), that failed, are missing or look
    wrong."""
    return [
        c
        for c in found
        if c.wrong
        or c.verdict in ("failed", "missing")
        or (c.verdict == "slower" and c.ratio is not None and c.ratio > 1 + limit)
    ]
