"""The verdict on a row: trusted, noisy or not trustworthy, with every reason said."""

from __future__ import annotations

from dataclasses import replace

from .row import Row, Trust

MIN_SAMPLES = 3
FLAGGED_NOISY, FLAGGED_BAD = 0.1, 0.5  # share of samples with a flag
SPREAD_NOISY, SPREAD_BAD = 0.15, 0.4  # distance of the quartiles over the median
UNCERTAIN_NOISY, UNCERTAIN_BAD = 0.05, 0.2  # of the median
# Least PSNR in dB against float32 sequential. Fewer bits are judged by what their export recorded.
PSNR_FLOORS = {"fp32": 90.0, "fp16": 50.0, "int8": 40.0}
# Below the recorded median: an error three times as large. Of 512 pictures of the embedded model in
# int4, with and without guidance, 1 in 20 fell below that, and no median of five neighbours.
MARGIN_DB = 10.0
# Two different pictures of that model are 9 dB apart: with less they have nothing in common.
LEAST_DB = 10.0

_WORST: dict[int, Trust] = {0: "trusted", 1: "noisy", 2: "not trustworthy"}


def judged(row: Row) -> Row:
    """The row with its verdict; skipped and failed rows have none."""
    if row.status != "ok" or not row.samples_ms:
        return row
    found = [*_wrong(row), *_disturbed(row), *_scattered(row)]
    level = max((level for level, _ in found), default=0)
    reasons = tuple(reason for _, reason in found)
    return replace(row, trust=_WORST[level], trust_reasons=reasons)


def psnr_floor(precision: str | None, recorded_median_db: float | None = None) -> float:
    """Below which a picture is wrong: of the precision, or what its export allows to expect."""
    floors = [PSNR_FLOORS[precision]] if precision in PSNR_FLOORS else []
    if recorded_median_db is not None:
        floors.append(recorded_median_db - MARGIN_DB)
    return max(LEAST_DB, min(floors, default=LEAST_DB))


def is_wrong(row: Row) -> bool:
    """Whether the picture is not the one that the model gives: no time makes up for it."""
    return bool(_wrong(row))


def _wrong(row: Row) -> list[tuple[int, str]]:
    floor = psnr_floor(row.precision) if row.psnr_floor_db is None else row.psnr_floor_db
    psnr = row.psnr_db if row.psnr_median_db is None else row.psnr_median_db
    if psnr is None or psnr >= floor:
        return []
    return [(2, f"wrong picture: {psnr:.1f} dB, {row.precision} needs {floor:.3g} dB")]


def _disturbed(row: Row) -> list[tuple[int, str]]:
    found = []
    share = sum(bool(flag) for flag in row.sample_flags) / len(row.samples_ms)
    words = sorted({word for flag in row.sample_flags for word in flag.split("+") if word})
    level = _level(share, FLAGGED_NOISY, FLAGGED_BAD)
    if level:
        reason = f"{share:.0%} of the samples were disturbed ({', '.join(words)})"
        if row.other_cores:
            reason += f", other programs used {row.other_cores:.2g} cores"
        found.append((level, reason))
    if row.power and row.power.startswith("battery"):
        found.append((1, f"the machine ran on {row.power}"))
    return found


def _scattered(row: Row) -> list[tuple[int, str]]:
    found = []
    used = len(row.usable_ms)
    if used < MIN_SAMPLES:
        found.append((2, f"{used} samples are too few, {MIN_SAMPLES} are the least"))
    level = _level(row.spread or 0, SPREAD_NOISY, SPREAD_BAD)
    if level:
        found.append((level, f"the middle half of the samples is {row.spread:.0%} wide"))
    level = _level(row.median_uncertainty or 0, UNCERTAIN_NOISY, UNCERTAIN_BAD)
    if level:
        found.append((level, f"the median is uncertain by ±{row.median_uncertainty:.0%}"))
    return found


def _level(value: float, noisy: float, bad: float) -> int:
    return (value > noisy) + (value > bad)
