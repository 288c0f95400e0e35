"""Two sets of rows compared case by case, from their samples: faster, slower, same or unclear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from ..runtime.errors import UsageError
from .row import Row
from .stats import ratio_interval
from .trust import MARGIN_DB, PSNR_FLOORS, is_wrong

Verdict = Literal["faster", "slower", "same", "unclear", "failed", "missing"]

MIN_EFFECT = 0.03  # smaller differences are called the same: code layout alone makes 1-2 %
# A disturbed row is believed only when the difference is this large.
LEAST_EFFECT = {"trusted": 0.0, "noisy": 0.08, "not trustworthy": 0.25}
MIN_SAMPLES = 3
KEY: tuple[str, ...] = (
    *("model", "engine", "precision", "device", "threads", "spinning", "window", "guidance"),
    *("extrapolated_patches", "machine"),
)


@dataclass(frozen=True)
class Comparison:
    """One case in A and in B.

    Attributes:
        ratio: median time of B over that of A, with its 95 % interval ``low`` to ``high``.
        verdict: ``failed`` where B could not run the case, ``missing`` where it has none such.
        reasons: why the verdict is not clearer, and what else a reader has to know.
        wrong: B's picture is not the model's.
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

    Several rows of one case count as one: their samples are put together.

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
        if row.status == "ok" and (row.samples_ms or row.median_ms):
            found.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    for cases in found.values():
        if len({row.model_sha256 for row in cases if row.model_sha256}) > 1:
            raise UsageError(
                f"two bundles are called {cases[0].model}: choose one with --a or --b "
                f"model_sha256={cases[0].model_sha256}"
            )
    return found


def _compare(a: list[Row], b: list[Row], min_effect: float) -> Comparison:
    left = [sample for row in a for sample in row.usable_ms]
    right = [sample for row in b for sample in row.usable_ms]
    reasons = [f"{side}: {r}" for side, rows in (("A", a), ("B", b)) for r in _doubts(rows)]
    wrong = any(is_wrong(row) for row in b) or _far_below(a, b)
    if _far_below(a, b):
        reasons.append(f"B: its picture is over {MARGIN_DB:g} dB farther from float32 than A's")
    if min(len(left), len(right)) < MIN_SAMPLES:
        reasons.append(f"{len(left)} and {len(right)} samples, {MIN_SAMPLES} each are the least")
        pair = (a[0].median_ms, b[0].median_ms)
        ratio = pair[1] / pair[0] if pair[0] and pair[1] else None
        return Comparison(a[0].name, *pair, ratio, None, None, "unclear", tuple(reasons), wrong)
    ratio, low, high = ratio_interval(left, right)
    least = max(min_effect, *(LEAST_EFFECT[row.trust or "noisy"] for row in a + b))
    verdict = _verdict(ratio, low, high, min_effect, least)
    pulse = _pulse(a, b)
    if pulse and abs(pulse - 1) > min_effect:
        # The machine itself differed: believed only what holds with and without that difference.
        other = _verdict(ratio / pulse, low / pulse, high / pulse, min_effect, least)
        if other != verdict:
            verdict = "unclear"
            reasons.append(f"the machine itself took {pulse:.2f}x for a fixed hash")
    if wrong or any(is_wrong(row) for row in a):
        verdict = "unclear"
    a_ms, b_ms = median(left), median(right)
    name = f"{a[0].name} / {b[0].name}" if a[0].name != b[0].name else a[0].name
    return Comparison(name, a_ms, b_ms, ratio, low, high, verdict, tuple(reasons), wrong)


def _far_below(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """B's picture is far worse than A's of the same seed, and no floor says how bad it may be."""
    left = [row.psnr_db for row in a if row.psnr_db is not None]
    right = [r.psnr_db for r in b if r.psnr_db is not None and r.psnr_floor_db is None]
    same = len({(row.precision, row.seed, row.label) for row in [*a, *b]}) == 1
    floor = PSNR_FLOORS.get(b[0].precision or "", 0.0)
    if not (same and left and right) or (floor and min(right) >= floor):
        return False
    return min(right) < min(left) - MARGIN_DB


def _verdict(ratio: float, low: float, high: float, effect: float, least: float) -> Verdict:
    """Slower and faster need an interval without 1 and an effect as large as the doubt asks for."""
    if low > 1 and ratio > 1 + least:
        return "slower"
    if high < 1 and ratio < 1 / (1 + least):
        return "faster"
    inside = 1 / (1 + effect) <= ratio <= 1 + effect
    narrow = 1 / (1 + 2 * effect) <= low and high <= 1 + 2 * effect
    return "same" if inside and narrow else "unclear"


def _doubts(rows: Sequence[Row]) -> list[str]:
    reasons = [reason for row in rows if row.trust != "trusted" for reason in row.trust_reasons]
    return list(dict.fromkeys(reasons))


def _pulse(a: Sequence[Row], b: Sequence[Row]) -> float | None:
    """Calibration of B over A where both are of one machine."""
    if a[0].machine != b[0].machine:
        return None
    pairs = [[row.calibration_ms for row in rows if row.calibration_ms] for rows in (a, b)]
    return median(pairs[1]) / median(pairs[0]) if all(pairs) else None


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
