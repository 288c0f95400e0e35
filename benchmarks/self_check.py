"""A against A: what this machine can tell apart now, by measuring one case as if it were two."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..runtime.conditions import Watch
from ..runtime.errors import UsageError
from ..runtime.trust import BETWEEN_RUNS, MIN_EFFECT, PULSES_DIFFER
from .compare import Comparison, compare_rows
from .contender import BundlePath, Subject
from .formats import conditions_of
from .grid import Case
from .measure import Progress, new_row, open_case
from .row import Row, summarized
from .trust import judged
from .turns import Effort, Job, sampled_row, take_turns


@dataclass(frozen=True)
class SelfCheck:
    """The verdict on the machine.

    Attributes:
        comparison: of the case with itself.
        can_tell: no difference was seen where there is none, by samples that are trusted.
        smallest: the smallest difference of two cases of one run that is told reliably; None where
            none is.
    """

    comparison: Comparison
    can_tell: bool
    smallest: float | None
    conditions: list[str]

    def report(self) -> dict[str, Any]:
        """For ``--json``."""
        between = {"pulses_alike": BETWEEN_RUNS, "pulses_differ": PULSES_DIFFER}
        return {**asdict(self), "between_runs": between}

    def __str__(self) -> str:
        c = self.comparison
        assert c.ratio and c.low and c.high
        lines = [
            f"{c.name} against itself: {c.a_ms:.4g} and {c.b_ms:.4g} ms, ratio {c.ratio:.3f} "
            f"(95 %: {c.low:.3f} to {c.high:.3f}): {c.verdict}"
        ]
        if self.can_tell:
            assert self.smallest
            lines.append(
                f"this machine can tell differences now: {self.smallest:.0%} or more between cases "
                f"of one run, {BETWEEN_RUNS:.0%} to {PULSES_DIFFER:.0%} or more between runs"
            )
        else:
            lines.append("this machine cannot tell differences now")
        return "\n".join([*lines, *(f"- {reason}" for reason in c.reasons), *self.conditions])


def self_check(
    path: BundlePath, case: Case, subject: Subject, effort: Effort, progress: Progress
) -> SelfCheck:
    """Open a case twice and let the two take turns."""
    with ExitStack() as stack:
        jobs = []
        for _ in range(2):
            job = open_case(path, case, subject, new_row())
            if isinstance(job, Row):
                raise UsageError(f"--self-check: {job.name} cannot run: {job.reason}")
            stack.callback(job.contender.close)
            jobs.append(job)
        if not jobs[0].row.is_speed:
            raise UsageError(f"--self-check: the time of {jobs[0].row.engine} is not a speed")
        return _checked(jobs, effort, progress)


def _checked(jobs: list[Job], effort: Effort, progress: Progress) -> SelfCheck:
    watch, run = Watch(), jobs[0].row.run

    def tell(words: str) -> None:
        left = max(effort.runs_left(job.seconds, job.spent) for job in jobs)
        done = len(jobs[0].seconds)
        progress(done / (done + left) if done else 0.0, f"self-check: {words}")

    take_turns(jobs, effort, watch, tell)
    for job in jobs:
        if job.row.status != "ok":
            raise UsageError(f"--self-check: {job.row.name}: {job.row.reason}")
        job.row = replace(sampled_row(job, watch, effort, len(jobs)), run=run)
    a, b = (judged(summarized(job.row)) for job in jobs)
    (found,) = compare_rows([a], [b])
    return concluded(found, conditions_of([a]))


def concluded(found: Comparison, conditions: list[str]) -> SelfCheck:
    """Nothing differs here: whatever looks as if it did is the machine's."""
    assert found.ratio and found.low and found.high
    can_tell = found.verdict == "same"
    reasons = found.reasons
    if found.verdict in ("faster", "slower"):
        reasons += (f"the same case differed by {abs(found.ratio - 1):.1%}",)
    elif found.verdict == "unclear" and not reasons:
        reasons += ("the samples vary too much to tell that nothing differs",)
    half = max(found.high / found.ratio, found.ratio / found.low) - 1
    smallest = max(MIN_EFFECT, 2 * half + abs(found.ratio - 1)) if can_tell else None
    shown = replace(found, verdict="same" if can_tell else "unclear", reasons=reasons)
    return SelfCheck(shown, can_tell, smallest, conditions)
