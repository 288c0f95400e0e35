"""Cases measured together: warmed up, taking turns in one process, until the medians are sure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import median

from .. import __version__
from ..runtime.bundle import Bundle
from ..runtime.errors import FlowshipError, MissingExtraError, UsageError
from ..runtime.extras import is_installed
from ..runtime.hashing import sha256_bytes
from ..runtime.images import max_abs_error, psnr_db, to_uint8
from ..runtime.manifest import Quality
from ..runtime.opening import made_for
from .ahead import Ahead
from .cold_start import cold_start
from .conditions import Watch, describe
from .contender import BundlePath, Contender, Floats, FlowContender, Subject, picture_of
from .energy import EnergyMeter, find_meter, why_no_meter
from .grid import Case, refusal
from .machine import commit, now_utc, this_machine
from .row import EQUAL_DB, Row, Status, summarized
from .stats import median_uncertainty
from .trust import is_wrong, judged, psnr_floor
from .work import picture_bytes, picture_flops

Progress = Callable[[float, str], None]

ONE_POOL = "executorch"  # one thread pool in a process, whose size its programs share
ONE_POOL_NOTE = (
    "ExecuTorch has one thread pool in a process: took no turns with cases of other thread counts"
)
OTHER_PICTURES = 4  # made where a picture looks wrong


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        warm_up: runs that are not counted.
        min_repeats, max_repeats, max_seconds: of each case; the least number comes first.
        uncertainty: a case ends when its median is known this well (relative, 95 %).
        cold: measure time to first image and memory in a new process too.
    """

    warm_up: int = 2
    min_repeats: int = 10
    max_repeats: int = 200
    max_seconds: float = 10.0
    uncertainty: float = 0.01
    cold: bool = True

    def is_done(self, samples: Sequence[float], seconds: float) -> bool:
        if len(samples) < self.min_repeats:
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
        return max(0.0, max(self.min_repeats, min(ends)) - count)


@dataclass(frozen=True)
class Limits:
    """What this machine can do at most with a number of threads, measured in the same run."""

    read_gbps: float
    gflops: float


MeasureLimits = Callable[[int], Limits]


@dataclass
class Job:
    """One case being measured: its row so far and its samples.

    Attributes:
        seconds: of each sample, what was not run extrapolated; ``spent``: of all runs together.
        numbers: of its samples in the watch's count.
    """

    row: Row
    contender: Contender
    spent: float = 0.0
    seconds: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    meter: EnergyMeter | None = None
    output: Floats | None = None
    finished: bool = False

    @property
    def run_seconds(self) -> float:
        """Of one run, as far as it is known."""
        return self.spent / len(self.seconds) if self.seconds else 0.0

    def sample(self, watch: Watch) -> None:
        before = self.meter.read() if self.meter else None
        start = time.perf_counter()
        self.output = self.contender.run()
        ran = time.perf_counter() - start
        after = self.meter.read() if self.meter else None
        self.spent += ran
        self.seconds.append(ran + self.contender.unrun_seconds)
        self.numbers.append(watch.sampled())
        if before is not None and after is not None:
            self.joules.append((after - before) * self.seconds[-1] / ran)


def measure(
    paths: Sequence[BundlePath],
    cases: Sequence[Case],
    subject: Subject,
    effort: Effort,
    *,
    synthetic: Sequence[bool] = (),
    interleave: bool = True,
    limits: MeasureLimits | None = None,
    extra: Sequence[Job] = (),
    template: Row | None = None,
    progress: Progress = lambda fraction, text: None,
) -> list[Row]:
    """Measure every case; a case that cannot run gives a row that says why.

    Args:
        paths: the bundles that ``Case.bundle`` counts; ``synthetic`` says whose weights are random.
        interleave: all cases take turns, so that a busy moment hits all; else one after another,
            which needs memory for one alone.
        limits: measures what the machine can do with so many threads.
        extra: more contenders that take turns in the first group, such as a baseline; their rows
            are completed in place and not returned.
        template: what all rows have in common; this machine unless given.
    """
    template = template or new_row()
    rows: dict[int, Row] = {}
    groups = turns(cases) if interleave else [[i] for i in range(len(cases))]
    ahead = Ahead(len(cases))
    for number, group in enumerate(groups):
        with ExitStack() as stack:
            jobs: dict[int, Job] = {}
            for i in group:
                opened = _open(paths, cases[i], subject, template, stack)
                if isinstance(opened, Row):
                    rows[i] = opened
                    ahead.refused()
                else:
                    jobs[i] = opened
            together = [*jobs.values(), *(extra if not number else ())]

            def sampled(
                text: str, together: Sequence[Job] = together, unchecked: int = len(jobs)
            ) -> None:
                left = [job.run_seconds * _runs_left(job, effort) for job in together]
                check = _check_seconds(together, effort, limits)
                progress(ahead.fraction(left, unchecked, check), text)

            take_turns(together, effort, sampled)
            for count, (i, job) in enumerate(jobs.items()):
                start = time.monotonic()
                sampled(f"checking the picture of {job.row.name}", unchecked=len(jobs) - count)
                if interleave and number:
                    job.row = replace(job.row, notes=(*job.row.notes, ONE_POOL_NOTE))
                rows[i] = _finish(job, paths, cases[i], subject, effort, limits)
                ahead.checked(time.monotonic() - start)
    random = [bool(synthetic) and synthetic[case.bundle] for case in cases]
    return [replace(rows[i], synthetic=random[i]) for i in range(len(cases))]


def turns(cases: Sequence[Case]) -> list[list[int]]:
    """Numbers of the cases that can take turns: all, but for ExecuTorch's other thread counts."""
    counts = [case.threads for case in cases if case.engine == ONE_POOL]
    together: list[int] = []
    apart: dict[int | None, list[int]] = {}  # by thread count
    for number, case in enumerate(cases):
        if case.engine != ONE_POOL or case.threads == counts[0]:
            together.append(number)
        else:
            apart.setdefault(case.threads, []).append(number)
    return [together, *apart.values()]


def new_row() -> Row:
    """A row of this machine, this version and this moment."""
    machine = this_machine()
    return Row(
        model="",
        engine="",
        time_utc=now_utc(),
        flowship_version=__version__,
        commit=commit(),
        machine=machine.name,
        cores=machine.cores,
        memory_gb=machine.memory_gb,
        os=machine.os,
        power=machine.power,
        conditions=f"{describe(machine.cores)}, batch 1",
    )


def _open(
    paths: Sequence[BundlePath], case: Case, subject: Subject, template: Row, stack: ExitStack
) -> Job | Row:
    """A job whose engine the stack closes, or the row of a case that cannot run."""
    row = replace(
        template,
        engine=case.engine,
        precision=case.precision,
        device=case.device,
        threads=case.threads,
        spinning=bool(case.spinning),
        window="auto" if case.window is None else str(case.window),
        guidance=case.guidance,
        seed=subject.seed,
    )
    with Bundle.open(paths[case.bundle]) as bundle:
        T = bundle.spec.image.num_patches
        row = replace(row, model=bundle.manifest.name, model_sha256=bundle.sha256, num_patches=T)
        reason = refusal(case, bundle)
    if reason:
        return replace(row, status="skipped", reason=reason)
    try:
        contender = FlowContender(paths[case.bundle], case, subject)
    except FlowshipError as error:
        return _failed(row, error)
    stack.callback(contender.close)
    info, flow = contender.flow.engine.info, contender.flow
    row = replace(
        row,
        engine_version=info.version,
        precision=info.precision,
        device=info.device,
        threads=info.threads,
        spinning=contender.spinning,
        label=contender.label,
        plan_sha256=flow.plan.sha256,
        extrapolated_patches=contender.patches,
    )
    return Job(row, contender)


def _failed(row: Row, error: FlowshipError) -> Row:
    """What is not there is skipped; what broke has failed."""
    absent = isinstance(error, (UsageError, MissingExtraError))
    status: Status = "skipped" if absent else "failed"
    return replace(row, status=status, reason=str(error), trust=None)


def take_turns(jobs: Sequence[Job], effort: Effort, progress: Callable[[str], None]) -> None:
    """Warm up, then sample the jobs in turns until each is done; their rows get the samples."""
    meters = {device: find_meter(device) for device in {job.row.device for job in jobs}}
    for job in jobs:
        job.meter = meters[job.row.device]
        for _ in range(effort.warm_up):
            if not job.finished:
                _guarded(job, job.contender.run)
    watch = Watch()
    while active := [job for job in jobs if not job.finished]:
        for job in active:
            _guarded(job, lambda job=job: job.sample(watch))  # type: ignore[misc]
            job.finished |= effort.is_done(job.seconds, job.spent)
        progress(f"{len(active)} of {len(jobs)} cases still run")
    found = watch.disturbances()
    turns = f", {len(jobs)} cases taking turns in one process" * (len(jobs) > 1)
    for job in jobs:
        own = [found[number] for number in job.numbers]
        others = [d.other_cores for d in own if d.other_cores is not None]
        stolen = [d.steal for d in own if d.steal is not None]
        notes = job.row.notes
        if job.seconds and not others:
            notes += ("the load of other programs cannot be read here (pip install psutil)",)
        if job.seconds and not job.joules:
            notes += (why_no_meter(job.row.device),)
        job.row = replace(
            job.row,
            samples_ms=tuple(1000 * seconds for seconds in job.seconds),
            sample_flags=tuple(d.flag for d in own),
            other_cores=median(others) if others else None,
            steal=median(stolen) if stolen else None,
            calibration_ms=watch.calibration_ms,
            joules_per_image=median(job.joules) if job.joules else None,
            energy_source=job.meter.source if job.meter and job.joules else None,
            notes=notes,
            conditions=f"{job.row.conditions or ''}{turns}",
        )


def _guarded(job: Job, run: Callable[[], object]) -> None:
    try:
        run()
    except FlowshipError as error:
        job.row = _failed(job.row, error)
        job.seconds.clear()
        job.numbers.clear()
        job.finished = True


def _runs_left(job: Job, effort: Effort) -> float:
    return 0.0 if job.finished else effort.runs_left(job.seconds, job.spent)


def _check_seconds(jobs: Sequence[Job], effort: Effort, limits: MeasureLimits | None) -> float:
    """About what _finish() takes: the reference's picture, a counted one, a new process."""
    run = sum(job.run_seconds for job in jobs) / len(jobs) if jobs else 0.0
    more = (limits is not None) + effort.cold  # a run and about a second each
    return run + more * (run + 1.0)


def _finish(
    job: Job,
    paths: Sequence[BundlePath],
    case: Case,
    subject: Subject,
    effort: Effort,
    limits: MeasureLimits | None,
) -> Row:
    """The row of a measured case with its accuracy, cold start and what the machine reached."""
    if job.row.status != "ok":
        return job.row
    path = paths[case.bundle]
    try:
        row = summarized(_with_accuracy(job, path, case, subject))
        if effort.cold:
            cold = cold_start(path, case, subject)
            # the first patches alone are no image
            ttfi = cold.ttfi_ms if row.extrapolated_patches is None else None
            row = replace(
                row, ttfi_ms=ttfi, load_ms=cold.load_ms, peak_memory_mb=cold.peak_memory_mb
            )
        return judged(_with_limits(row, job, limits))
    except FlowshipError as error:
        return _failed(job.row, error)


def _with_limits(row: Row, job: Job, limits: MeasureLimits | None) -> Row:
    contender = job.contender
    if limits is None or row.median_ms is None or not isinstance(contender, FlowContender):
        return row
    work, manifest = contender.count_work(), contender.flow.bundle.manifest
    branches = contender.guidance.branches
    assert row.precision
    seconds = row.median_ms / 1000 * _ran_share(job)
    moved = picture_bytes(manifest, work, made_for(row.engine), row.precision, branches)
    limit = limits(row.threads or 1)
    return replace(
        row,
        read_gbps=moved / seconds / 1e9,
        gflops=picture_flops(manifest, work, branches) / seconds / 1e9,
        limit_read_gbps=limit.read_gbps,
        limit_gflops=limit.gflops,
    )


def _ran_share(job: Job) -> float:
    """The part of the samples' time that really ran; less than 1 where they are extrapolated."""
    return job.spent / sum(job.seconds)


# -- how right the picture is ----------------------------------------------------------------------


def _with_accuracy(job: Job, path: BundlePath, case: Case, subject: Subject) -> Row:
    """Hash, error against float32 sequential made in this run, and the change of bits/dim."""
    contender, row = job.contender, job.row
    assert isinstance(contender, FlowContender) and job.output is not None
    images = picture_of(job.output, contender)
    row = replace(row, output_sha256=sha256_bytes(to_uint8(images)[0].tobytes()))
    quality = _quality(contender)
    sequential = _reference(case, contender)
    if sequential is None:
        if quality is None:
            return replace(row, notes=(*row.notes, "no float32 to compare the picture with"))
        return replace(
            row,
            psnr_db=quality.psnr_db,
            max_abs_error=quality.image_max_abs_error,
            bits_per_dim_change=quality.bits_per_dim_change,
            accuracy_source=f"the manifest, measured when exported on {quality.inputs}",
        )
    with_engine = f"{sequential.engine} fp32, one patch a call, in this run"
    reference = FlowContender(path, sequential, subject)
    try:
        wanted = picture_of(reference.run(), reference)
        error = max_abs_error(images, wanted)
        row = replace(
            row,
            psnr_db=_psnr(images, wanted),
            psnr_floor_db=psnr_floor(row.precision, quality.psnr_db_median if quality else None),
            max_abs_error=error if isfinite(error) else None,
            accuracy_source=f"picture against {with_engine}",
        )
        if is_wrong(row):
            others = _other_psnrs(path, (case, sequential), subject)
            row = replace(row, psnr_median_db=median([row.psnr_db or 0.0, *others]))
        return _with_bits(row, contender, reference, wanted, quality)
    finally:
        reference.close()


def _psnr(images: Floats, wanted: Floats) -> float:
    return max(-EQUAL_DB, min(EQUAL_DB, psnr_db(images, wanted)))


def _other_psnrs(path: BundlePath, pair: tuple[Case, Case], subject: Subject) -> list[float]:
    """PSNR between two cases on the pictures of the next seeds."""
    found = []
    for seed in range(subject.seed + 1, subject.seed + 1 + OTHER_PICTURES):
        made = []
        for case in pair:
            contender = FlowContender(path, case, replace(subject, seed=seed))
            try:
                made.append(picture_of(contender.run(), contender))
            finally:
                contender.close()
        found.append(_psnr(*made))
    return found


def _with_bits(
    row: Row,
    contender: FlowContender,
    reference: FlowContender,
    picture: Floats,
    quality: Quality | None,
) -> Row:
    """The manifest's change on real pictures; where it has none, the change on this picture."""
    if quality is not None and quality.bits_per_dim_change is not None:
        source = f"change of bits/dim from the manifest ({quality.bits_per_dim_inputs})"
        change: float | None = quality.bits_per_dim_change
    elif contender.patches is None:
        source = "change of bits/dim on the float32 picture, in this run"
        found = [c.flow.log_likelihood(picture, label=c.label) for c in (contender, reference)]
        change = float(found[0].bits_per_dim[0] - found[1].bits_per_dim[0])
    else:
        return row
    return replace(
        row, bits_per_dim_change=change, accuracy_source=f"{row.accuracy_source}; {source}"
    )


def _quality(contender: FlowContender) -> Quality | None:
    info = contender.flow.engine.info
    for quality in contender.flow.bundle.manifest.quality:
        if (quality.engine, quality.precision) == (made_for(info.name), info.precision):
            return quality
    return None


def _reference(case: Case, contender: FlowContender) -> Case | None:
    """Float32 sequential: with ONNX Runtime where it is, another engine's witness, else its own."""
    precisions = contender.flow.bundle.manifest.precisions
    for engine in ("onnx", case.engine):
        there = engine == case.engine or is_installed("onnxruntime")
        if there and "fp32" in precisions.get(made_for(engine), ()):
            device = case.device if engine == case.engine else "cpu"
            return replace(case, engine=engine, precision="fp32", device=device, window=1)
    return None
