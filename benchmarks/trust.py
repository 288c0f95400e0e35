"""The verdict on a row: trusted, noisy or not trustworthy, with every reason said."""

from __future__ import annotations

from dataclasses import replace

from ..runtime.trust import TRUSTS, Levels, Series, doubts, worst
from .row import Row

# Least PSNR in dB against float32 sequential. Fewer bits are judged by what their export recorded.
PSNR_FLOORS = {"fp32": 90.0, "fp16": 50.0, "int8": 40.0}
# Below the recorded median: an error three times as large. Of 512 pictures of the embedded model in
# int4, with and without guidance, 1 in 20 fell below that, and no median of five neighbours.
MARGIN_DB = 10.0
# Two different pictures of that model are 9 dB apart: with less they have nothing in common.
LEAST_DB = 10.0


def judged(row: Row) -> Row:
    """The row with its verdict; skipped and failed rows have none, nor has what is not a speed."""
    if row.status != "ok" or not row.is_speed or not (row.samples_ms or _wrong(row)):
        return row
    trust, reasons = worst([*_wrong(row), *_disturbed(row), *_times(row)])
    return replace(row, trust=trust, trust_reasons=reasons)


def believed(row: Row) -> Row:
    """A row from a file by the rules of today, but never above the verdict that it came with."""
    found = judged(row)
    if row.trust and TRUSTS.index(row.trust) > TRUSTS.index(found.trust or "trusted"):
        return row
    return found


def psnr_floor(precision: str | None, recorded_median_db: float | None = None) -> float:
    """Below which a picture is wrong: of the precision, or what its export allows to expect."""
    floors = [PSNR_FLOORS[precision]] if precision in PSNR_FLOORS else []
    if recorded_median_db is not None:
        floors.append(recorded_median_db - MARGIN_DB)
    return max(LEAST_DB, min(floors, default=LEAST_DB))


def is_wrong(row: Row) -> bool:
    """Whether the picture is not the one that the model gives: no time makes up for it."""
    return bool(_wrong(row))


def _wrong(row: Row) -> Levels:
    floor = psnr_floor(row.precision) if row.psnr_floor_db is None else row.psnr_floor_db
    psnr = row.psnr_db if row.psnr_median_db is None else row.psnr_median_db
    if psnr is None or psnr >= floor:
        return []
    return [(2, f"wrong picture: {psnr:.1f} dB, {row.precision} needs {floor:.3g} dB")]


def _disturbed(row: Row) -> Levels:
    found = []
    if row.interrupted:
        found.append((1, "the run was interrupted: the picture was not checked"))
    if row.power and row.power.startswith("battery"):
        found.append((1, f"the machine ran on {row.power}"))
    return found


def _times(row: Row) -> Levels:
    flags, pulses = row.sample_flags, row.sample_pulses_ms
    series = Series(row.samples_ms, flags, row.span_s, pulses, row.other_cores)
    return doubts(series) if row.samples_ms else []
