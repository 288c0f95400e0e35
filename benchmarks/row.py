"""One measured case: the schema of every format, each field written once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..runtime.stats import median_uncertainty, percentile, relative_iqr
from ..runtime.trust import Trust, usable
from ..runtime.untimed import UNTIMED_ENGINES, UNTIMED_NOTE

Status = Literal["ok", "skipped", "failed"]

EQUAL_DB = 200.0  # stands for identical pictures; float32 with peak 2 cannot come near it


@dataclass(frozen=True)
class Row:
    """What was measured, on what, with which settings, under which conditions, and how right it is.

    Only the model, the engine and the samples are needed: rows from phones and browsers leave out
    what they cannot know.

    Attributes:
        run: what the rows of one run have in common. ``interrupted``: it did not come to its end.
        same_as: name of the row whose case this one is too, such as W=1 where the plan has no
            windows; measured once, its numbers are that row's.
        model, model_sha256: the bundle's name and hash; ``synthetic`` has random weights.
        engine, engine_version, precision, device, threads: what ran it; threads are the engine's.
        spinning: its idle threads wait actively between operators.
        window: patches in one call, or ``auto`` for the plan, whose hash is ``plan_sha256``.
        guidance, label, seed: of the picture. Batch size is always 1.
        samples_ms: every sample, milliseconds per image from noise to pixels, in order of time.
        sample_flags: for each sample what disturbed it: "" or busy, steal, throttled with a +.
        sample_places: for each sample its place among all samples of the run. Cases take turns in
            an order that ``order_seed`` shuffles anew in every round.
        sample_pulses_ms: for each sample a fixed hash computed after it, the machine's pulse.
        span_s: seconds from the first sample to the last.
        samples_used: how many the statistics are of: those without a flag where they suffice.
        spread: distance of the quartiles over the median.
        median_uncertainty: half the 95 % interval of the median, relative.
        extrapolated_patches: the first patches of each block that ran, of ``num_patches``; None
            is the whole picture. Later patches attend to more, so that large models look better.
        ttfi_ms: cold, from the start of a new process to the first picture.
        load_ms: opening bundle and engine in that process; ``peak_memory_mb`` its resident peak.
        read_gbps, gflops: reached, beside the ``limit_`` measured on this machine in the same run.
        joules_per_image: median; ``energy_source`` says whose counter, other programs included.
        output_sha256: of the 8-bit pixels [C, H, W].
        psnr_db: against float32 sequential, peak 2; 200 is identical. ``accuracy_source`` says
            where it and the change of bits/dim come from.
        psnr_floor_db: below it a picture is called wrong.
        psnr_median_db: where this picture is below the floor, of five: single pictures amplify
            the smallest difference.
        calibration_ms: a good pulse of the run.
        other_cores, steal: median load of other programs, in cores, and stolen share of time, the
            mean of all samples: what was stolen from a few of them shows.
        conditions: in words; ``notes``: what a reader has to know.
        trust, trust_reasons: whether to believe the time.
    """

    model: str
    engine: str
    samples_ms: tuple[float, ...] = ()
    status: Status = "ok"
    reason: str | None = None
    # where and with what
    run: str | None = None
    interrupted: bool = False
    same_as: str | None = None
    time_utc: str | None = None
    flowship_version: str | None = None
    commit: str | None = None
    machine: str | None = None
    cores: int | None = None
    memory_gb: float | None = None
    os: str | None = None
    power: str | None = None
    model_sha256: str | None = None
    synthetic: bool = False
    engine_version: str | None = None
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
    spinning: bool = False
    window: str | None = None
    plan_sha256: str | None = None
    guidance: float = 0.0
    label: int | None = None
    seed: int | None = None
    # how fast
    order_seed: int | None = None
    sample_flags: tuple[str, ...] = ()
    sample_places: tuple[int, ...] = ()
    sample_pulses_ms: tuple[float, ...] = ()
    span_s: float | None = None
    samples_used: int | None = None
    median_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    min_ms: float | None = None
    spread: float | None = None
    median_uncertainty: float | None = None
    images_per_min: float | None = None
    patches_per_s: float | None = None
    num_patches: int | None = None
    extrapolated_patches: int | None = None
    ttfi_ms: float | None = None
    load_ms: float | None = None
    peak_memory_mb: float | None = None
    read_gbps: float | None = None
    limit_read_gbps: float | None = None
    gflops: float | None = None
    limit_gflops: float | None = None
    joules_per_image: float | None = None
    energy_source: str | None = None
    # how right
    output_sha256: str | None = None
    psnr_db: float | None = None
    psnr_floor_db: float | None = None
    psnr_median_db: float | None = None
    max_abs_error: float | None = None
    bits_per_dim_change: float | None = None
    accuracy_source: str | None = None
    # how believable
    calibration_ms: float | None = None
    other_cores: float | None = None
    steal: float | None = None
    conditions: str | None = None
    notes: tuple[str, ...] = ()
    trust: Trust | None = None
    trust_reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not 0 < sample < float("inf") for sample in self.samples_ms):
            raise ValueError(f"samples_ms of {self.name} holds a time that is not above 0")
        for field in ("sample_flags", "sample_places", "sample_pulses_ms"):
            count = len(getattr(self, field))
            if count and count != len(self.samples_ms):
                raise ValueError(f"{count} {field} for {len(self.samples_ms)} samples_ms")

    @property
    def name(self) -> str:
        """Such as ``fashion-mnist onnx fp32 W=auto t=1 g=2``."""
        words = [self.model, self.engine, self.precision]
        words += [f"W={self.window}" if self.window else None]
        words += [f"t={self.threads}" if self.threads else None]
        words += ["spinning" if self.spinning else None]
        words += [f"g={self.guidance:g}" if self.guidance else None]
        return " ".join(word for word in words if word)

    @property
    def is_speed(self) -> bool:
        """Whether its time says how fast a device is."""
        return self.engine not in UNTIMED_ENGINES

    @property
    def usable_ms(self) -> tuple[float, ...]:
        """The samples that statistics and comparisons are made of."""
        return usable(self.samples_ms, self.sample_flags)


def summarized(row: Row) -> Row:
    """The row with the statistics that follow from its samples; others stay as they are.

    What is not a speed loses its times, so that nothing can show them.
    """
    if not row.is_speed:
        return _without_times(row)
    samples = row.usable_ms
    if not samples:
        return row
    median = percentile(samples, 50)
    blocks_patches = row.patches_per_s
    if row.num_patches:
        blocks_patches = row.num_patches * 1000 / median
    return replace(
        row,
        samples_used=len(samples),
        median_ms=median,
        p50_ms=median,
        p90_ms=percentile(samples, 90),
        p99_ms=percentile(samples, 99),
        min_ms=min(samples),
        spread=relative_iqr(samples),
        median_uncertainty=median_uncertainty(samples),
        images_per_min=60_000 / median,
        patches_per_s=blocks_patches,
    )


_TIMES = (
    *("samples_used", "median_ms", "p50_ms", "p90_ms", "p99_ms", "min_ms", "spread", "trust"),
    *("median_uncertainty", "images_per_min", "patches_per_s", "ttfi_ms", "load_ms", "span_s"),
    *("read_gbps", "limit_read_gbps", "gflops", "limit_gflops", "joules_per_image"),
)
_SERIES = ("samples_ms", "sample_flags", "sample_places", "sample_pulses_ms", "trust_reasons")


def _without_times(row: Row) -> Row:
    notes = row.notes if UNTIMED_NOTE in row.notes else (*row.notes, UNTIMED_NOTE)
    nothing: dict[str, Any] = {**dict.fromkeys(_TIMES), **dict.fromkeys(_SERIES, ())}
    return replace(row, **nothing, notes=notes)
