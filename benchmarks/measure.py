"""A grid of cases measured: opened, in turns, checked; rows are handed on as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Protocol

from .. import __version__
from ..runtime.bundle import Bundle
from ..runtime.conditions import Watch, describe
from ..runtime.errors import FlowshipError
from ..runtime.opening import made_for
from .accuracy import with_accuracy
from .ahead import Ahead
from .cold_start import cold_start
from .contender import BundlePath, FlowContender, Subject
from .grid import Case, refusal
from .machine import commit, now_utc, this_machine
from .row import Row, summarized
from .trust import judged
from .turns import Effort, Job, failed, sampled_row, take_turns
from .work import picture_bytes, picture_flops

Progress = Callable[[float, str], None]

ONE_POOL = "executorch"  # one thread pool in a process, whose size its programs share
ONE_POOL_NOTE = (
    "ExecuTorch has one thread pool in a process: took no turns with cases of other thread counts"
)
TWICE_NOTE = "given more than once, measured once"


@dataclass(frozen=True)
class Limits:
    """What this machine can do at most with a number of threads, measured in the same run."""

    read_gbps: float
    gflops: float


MeasureLimits = Callable[[int], Limits]


class Keeper(Protocol):
    """Takes rows as they come, by the number of their case."""

    def done(self, number: int, row: Row) -> None:
        """A case is over."""

    def so_far(self, rows: Callable[[], Mapping[int, Row]]) -> None:
        """Cases that are still measured have more samples; ``rows`` makes their rows."""


class _Nobody:
    def done(self, number: int, row: Row) -> None:
        """The rows are returned."""

    def so_far(self, rows: Callable[[], Mapping[int, Row]]) -> None:
        """They will be."""


@dataclass
class _Run:
    """One call of measure().

    Attributes:
        rows: those that are done; duplicates have none.
        seen: the first case of each kind that was opened, and its name.
        copies: by that case, the rows of others that turned out to be the same.
    """

    paths: Sequence[BundlePath]
    cases: Sequence[Case]
    subject: Subject
    effort: Effort
    synthetic: Sequence[bool]
    template: Row
    keeper: Keeper
    rows: dict[int, Row] = field(default_factory=dict)
    seen: dict[tuple[object, ...], tuple[int, str]] = field(default_factory=dict)
    copies: dict[int, list[tuple[int, Row]]] = field(default_factory=dict)
    twice: set[int] = field(default_factory=set)

    def finish(self, number: int, row: Row) -> None:
        """The row of a case and those that are the same case."""
        if number in self.twice and TWICE_NOTE not in row.notes:
            row = replace(row, notes=(*row.notes, TWICE_NOTE))
        self._keep(number, row)
        for other, copy in self.copies.get(number, ()):
            note = f"the same case as {row.name}: measured once"
            own = {name: getattr(copy, name) for name in ("window", "spinning", "plan_sha256")}
            self._keep(other, replace(row, **own, same_as=row.name, notes=(*row.notes, note)))

    def _keep(self, number: int, row: Row) -> None:
        random = bool(self.synthetic) and self.synthetic[self.cases[number].bundle]
        self.rows[number] = replace(row, synthetic=random)
        self.keeper.done(number, self.rows[number])

    def same_as(self, number: int, job: Job) -> bool:
        """Whether a case before this one does the same; its row will be that one's."""
        first, name = self.seen.setdefault(_identity(job), (number, job.row.name))
        if first == number:
            return False
        copies = [row.name for _, row in self.copies.get(first, ())]
        if job.row.name in (name, *copies):
            self.twice.add(first)
        else:
            self.copies.setdefault(first, []).append((number, job.row))
        if first in self.rows:  # it took no turns with this one and is over
            self.finish(first, self.rows[first])
        return True


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
    keeper: Keeper | None = None,
    progress: Progress = lambda fraction, text: None,
) -> list[Row]:
    """Measure every case; a case that cannot run gives a row that says why.

    Cases that turn out to do the same are measured once: where their settings are the same too
    they are one row, else each has a row, which says of which it is a copy.

    Args:
        paths: the bundles that ``Case.bundle`` counts; ``synthetic`` says whose weights are random.
        interleave: all cases take turns, so that a busy moment hits all; else one after another,
            which needs memory for one alone.
        limits: measures what the machine can do with so many threads.
        extra: more contenders that take turns in the first group, such as a baseline; their rows
            are completed in place and not returned.
        template: what all rows have in common; this machine unless given.
        keeper: gets every row when its case is over, and what there is while cases are sampled.
    """
    nobody = keeper or _Nobody()
    run = _Run(paths, cases, subject, effort, synthetic, template or new_row(), nobody)
    groups = turns(cases) if interleave else [[i] for i in range(len(cases))]
    ahead = Ahead(len(cases))
    for number, group in enumerate(groups):
        with ExitStack() as stack:
            jobs = _open_group(run, group, stack, ahead)
            together = [*jobs.values(), *(extra if not number else ())]
            apart = bool(interleave and number)
            _measure_group(run, jobs, together, limits, ahead, progress, apart=apart)
    return [run.rows[i] for i in sorted(run.rows)]


def _open_group(run: _Run, group: Sequence[int], stack: ExitStack, ahead: Ahead) -> dict[int, Job]:
    """The cases that can run and are not the same as another one."""
    jobs: dict[int, Job] = {}
    for i in group:
        opened = open_case(run.paths[run.cases[i].bundle], run.cases[i], run.subject, run.template)
        if isinstance(opened, Row):
            run.finish(i, opened)
            ahead.refused()
        elif run.same_as(i, opened):
            opened.contender.close()
            ahead.refused()
        else:
            stack.callback(opened.contender.close)
            jobs[i] = opened
    return jobs


def _measure_group(
    run: _Run,
    jobs: Mapping[int, Job],
    together: Sequence[Job],
    limits: MeasureLimits | None,
    ahead: Ahead,
    progress: Progress,
    *,
    apart: bool,
) -> None:
    watch, effort = Watch(), run.effort

    def tell(text: str, unchecked: int) -> None:
        left = [job.run_seconds * _runs_left(job, effort) for job in together]
        check = _check_seconds(together, effort, limits)
        progress(ahead.fraction(left, unchecked, check), text)

    def so_far() -> dict[int, Row]:
        own = {i: job for i, job in jobs.items() if i not in run.rows and job.numbers}
        rows = {i: sampled_row(job, watch, effort, len(together)) for i, job in own.items()}
        return {i: judged(summarized(replace(row, interrupted=True))) for i, row in rows.items()}

    def sampled(text: str) -> None:
        tell(text, len(jobs))
        run.keeper.so_far(so_far)

    run.keeper.so_far(so_far)
    take_turns(together, effort, watch, sampled)
    for job in together:
        job.row = sampled_row(job, watch, effort, len(together))
    for count, (i, job) in enumerate(jobs.items()):
        start = time.monotonic()
        tell(f"checking the picture of {job.row.name}", len(jobs) - count)
        if apart:
            job.row = replace(job.row, notes=(*job.row.notes, ONE_POOL_NOTE))
        run.finish(i, _finish(job, run.paths, run.cases[i], run.subject, effort, limits))
        ahead.checked(time.monotonic() - start)


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
        run=token_hex(6),
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


def _window(case: Case) -> str:
    return "auto" if case.window is None else str(case.window)


def _identity(job: Job) -> tuple[object, ...]:
    """What two cases have in common that do the same, whatever they are called."""
    contender, row = job.contender, job.row
    assert isinstance(contender, FlowContender)
    guided = contender.guidance.branches == 2
    plan, blocks = contender.flow.plan, contender.flow.spec.ar_blocks
    windows = tuple(plan.window(block.name, guided) for block in blocks)
    settled: tuple[object, ...] = ()  # W = 1 asks nothing of them
    if max(windows) > 1:
        settled = (plan.tolerance, *sorted(plan.min_committed.items()))
    settings = (row.model_sha256, row.engine, row.precision, row.device, row.threads)
    spins = row.spinning and row.threads != 1  # one thread never waits for another
    return (*settings, spins, row.guidance, windows, settled)


def open_case(path: BundlePath, case: Case, subject: Subject, template: Row) -> Job | Row:
    """A job whose engine is open, or the row of a case that cannot run."""
    row = replace(
        template,
        engine=case.engine,
        precision=case.precision,
        device=case.device,
        threads=case.threads,
        spinning=bool(case.spinning),
        window=_window(case),
        guidance=case.guidance,
        seed=subject.seed,
    )
    with Bundle.open(path) as bundle:
        T = bundle.spec.image.num_patches
        row = replace(row, model=bundle.manifest.name, model_sha256=bundle.sha256, num_patches=T)
        reason = refusal(case, bundle)
    if reason:
        return replace(row, status="skipped", reason=reason)
    try:
        contender = FlowContender(path, case, subject)
    except FlowshipError as error:
        return failed(row, error)
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
        row = summarized(with_accuracy(job, path, case, subject))
        if effort.cold and row.is_speed:
            cold = cold_start(path, case, subject)
            # the first patches alone are no image
            ttfi = cold.ttfi_ms if row.extrapolated_patches is None else None
            row = replace(
                row, ttfi_ms=ttfi, load_ms=cold.load_ms, peak_memory_mb=cold.peak_memory_mb
            )
        return judged(_with_limits(row, job, limits))
    except FlowshipError as error:
        return failed(job.row, error)


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
