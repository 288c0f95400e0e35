"""Cases that take turns in one process, in an order shuffled every round, until they are sure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median

from ..runtime.conditions import Watch
from ..runtime.errors import FlowshipError, MissingExtraError, UsageError
from ..runtime.stats import median_uncertainty
from ..runtime.timing import orders
from .contender import Contender, Floats
from .energy import EnergyMeter, find_meter, why_no_meter
from .row import Row, Status


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        warm_up: runs that are not counted.
        min_repeats, max_repeats: of each case.
        min_seconds, max_seconds: of each case; the least number of repeats comes before the most
            seconds, and the least seconds before the most repeats.
        uncertainty: a case ends when its median is known this well (relative, 95 %).
        cold: measure time to first image and memory in a new process too.
        order_seed: shuffles the turns.
    """

    warm_up: int = 2
    min_repeats: int = 10
    max_repeats: int = 200
    max_seconds: float = 10.0
    uncertainty: float = 0.01
    cold: bool = True
    min_seconds: float = 0.0
    order_seed: int = 0

    def is_done(self, samples: Sequence[float], seconds: float) -> bool:
        if len(samples) < self.min_repeats or seconds < self.min_seconds:
            return False
        if len(samples) >= self.max_repeats or seconds >= self.max_seconds:
            return True
        return median_uncertainty(samples) <= self.uncertainty

    def runs_left(self, samples: Sequence[float], seconds: float) -> float:
        """About how many samples are still to come: uncertainty falls with the root of them."""
        count = len(samples)
        if not count:
            return self.min_repeats
        ends: list[float] = [self.max_repeats, count * self.max_seconds / seconds]
        if self.uncertainty > 0:
            ends.append(count * (median_uncertainty(samples) / self.uncertainty) ** 2)
        least = max(self.min_repeats, count * self.min_seconds / seconds)
        return max(0.0, max(least, min(ends)) - count)


@dataclass
class Job:
    """One case being measured: its row so far and its samples.

    Attributes:
        seconds: of each sample, what was not run extrapolated; ``spent``: of all runs together.
        numbers: of its samples in the watch's count, their places in the run.
        ends: of its samples, on the clock.
    """

    row: Row
    contender: Contender
    spent: float = 0.0
    seconds: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    meter: EnergyMeter | None = None
    output: Floats | None = None
    finished: bool = False

    @property
    def run_seconds(self) -> float:
        """Of one run, as far as it is known."""
        return self.spent / len(self.seconds) if self.seconds else 0.0

    @property
    def span_s(self) -> float:
        """From the beginning of the first sample to the end of the last."""
        return self.ends[-1] - self.ends[0] + self.run_seconds if self.ends else 0.0

    def sample(self, watch: Watch) -> None:
        before = self.meter.read() if self.meter else None
        start = time.perf_counter()
        self.output = self.contender.run()
        end = time.perf_counter()
        after = self.meter.read() if self.meter else None
        self.spent += end - start
        self.seconds.append(end - start + self.contender.unrun_seconds)
        self.ends.append(end)
        self.numbers.append(watch.sampled())
        if before is not None and after is not None:
            self.joules.append((after - before) * self.seconds[-1] / (end - start))

    def fail(self, error: FlowshipError) -> None:
        """No more samples, and those it has do not count."""
        self.row = failed(self.row, error)
        self.seconds.clear()
        self.numbers.clear()
        self.finished = True


def failed(row: Row, error: FlowshipError) -> Row:
    """What is not there is skipped; what broke has failed."""
    absent = isinstance(error, (UsageError, MissingExtraError))
    status: Status = "skipped" if absent else "failed"
    return replace(row, status=status, reason=str(error), trust=None)


def take_turns(
    jobs: Sequence[Job], effort: Effort, watch: Watch, progress: Callable[[str], None]
) -> None:
    """Warm up, then sample the jobs in turns until each is done.

    Args:
        progress: called after every round.
    """
    meters = {device: find_meter(device) for device in {job.row.device for job in jobs}}
    for job in jobs:
        job.meter = meters[job.row.device]
        _warm_up(job, effort)
    watch.close_window()  # what went before says nothing of the samples
    for order in orders(effort.order_seed, len(jobs)):
        active = [jobs[i] for i in order if not jobs[i].finished]
        if not active:
            break
        for job in active:
            _guarded(job, lambda job=job: job.sample(watch))  # type: ignore[misc]
            job.finished |= effort.is_done(job.seconds, job.spent)
        progress(f"{len(active)} of {len(jobs)} cases still run")


def _warm_up(job: Job, effort: Effort) -> None:
    """What is not a speed runs once, for its picture."""
    if not job.row.is_speed:
        _guarded(job, lambda: _make_picture(job))
        job.finished = True
        return
    for _ in range(effort.warm_up):
        if not job.finished:
            _guarded(job, job.contender.run)


def _make_picture(job: Job) -> None:
    job.output = job.contender.run()


def _guarded(job: Job, run: Callable[[], object]) -> None:
    try:
        run()
    except FlowshipError as error:
        job.fail(error)


def sampled_row(job: Job, watch: Watch, effort: Effort, together: int) -> Row:
    """The job's row with the samples that it has, and what disturbed them."""
    if not job.numbers:
        return job.row
    found = watch.disturbances()
    samples = job.seconds[: len(job.numbers)]  # Ctrl-C came between the two
    own = [found[number] for number in job.numbers]
    others = [d.other_cores for d in own if d.other_cores is not None]
    stolen = [d.steal for d in own if d.steal is not None]
    notes = job.row.notes
    if not others:
        notes += ("the load of other programs cannot be read here (pip install psutil)",)
    if not job.joules:
        notes += (why_no_meter(job.row.device),)
    turns = f", {together} cases taking turns in one process" * (together > 1)
    return replace(
        job.row,
        samples_ms=tuple(1000 * seconds for seconds in samples),
        sample_flags=tuple(d.flag for d in own),
        sample_places=tuple(job.numbers),
        sample_pulses_ms=tuple(round(1000 * d.pulse, 5) for d in own),
        span_s=round(job.span_s, 3),
        order_seed=effort.order_seed,
        other_cores=median(others) if others else None,
        steal=mean(stolen) if stolen else None,
        calibration_ms=watch.calibration_ms,
        joules_per_image=median(job.joules) if job.joules else None,
        energy_source=job.meter.source if job.meter and job.joules else None,
        notes=notes,
        conditions=f"{job.row.conditions or ''}{turns}",
    )
