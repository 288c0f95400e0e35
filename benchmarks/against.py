"""The reference's algorithm in torch taking turns with our engines, for ratios that hold anywhere.

On a noisy machine a time means little; the ratio of two programs that take turns means much.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.errors import UsageError
from ..runtime.flow import draw_noise
from ..runtime.guidance import Guidance
from ..runtime.hashing import sha256_bytes
from ..runtime.images import max_abs_error, psnr_db, to_uint8
from ..runtime.input_paths import check_readable
from ..runtime.machine_limits import usable_cores
from ..runtime.stats import ratio_interval
from .baseline import Baseline
from .contender import BundlePath, Floats, Subject
from .row import EQUAL_DB, Row, summarized
from .trust import judged
from .turns import Job

REVERSE, GS_JACOBI = "torch-reverse", "torch-gs-jacobi"


class BaselineContender:
    """One algorithm of the baseline with one guidance."""

    unrun_seconds = 0.0

    def __init__(self, baseline: Baseline, algorithm: str, subject: Subject, scale: float) -> None:
        spec = baseline.spec
        self._noise = draw_noise([subject.seed], spec)
        label = subject.label_of(spec)
        self._labels = None if label is None else [label]
        self._guidance = Guidance(scale)
        self._decode = baseline.sequential if algorithm == REVERSE else baseline.gs_jacobi

    def run(self) -> Floats:
        return self._decode(self._noise, self._labels, self._guidance)

    def close(self) -> None:
        """The weights are shared."""


def check_same_weights(checkpoint: Path, bundles: Sequence[BundlePath]) -> str | None:
    """A ratio is of two programs with the same weights.

    Returns:
        which of the models in the checkpoint the bundles were exported from; None where it has one.

    Raises:
        CheckpointError: there is no such checkpoint.
        UsageError: a bundle was not exported from this checkpoint.
    """
    check_readable(checkpoint, "--baseline", folder=True)
    # By name: benchmarks use the runtime alone. This module needs no torch.
    files: Any = importlib.import_module(
        f"{__package__.rpartition('.')[0]}.export.sources.checkpoint_files"
    )
    digest: str = files.find_files(checkpoint).sha256()
    taken: list[str | None] = []
    for path in bundles:
        with Bundle.open(path) as bundle:
            name, source = bundle.manifest.name, bundle.manifest.source
        if digest != source.sha256 or source.weights not in (taken or [source.weights]):
            raise UsageError(
                f"--baseline {checkpoint.name} is not what {name} was exported from "
                f"({source.file}, sha256 {source.sha256[:12]}...): only the same weights compare"
            )
        taken.append(source.weights)
    return taken[0] if taken else None


def baseline_jobs(
    checkpoint: Path,
    weights: str | None,
    subject: Subject,
    guidances: Sequence[float],
    template: Row,
) -> list[Job]:
    """Model.reverse on one thread and on all cores, and GS-Jacobi, for each guidance scale.

    Args:
        weights: see check_same_weights().

    Raises:
        MissingExtraError: torch is not installed.
        CheckpointError: the file is not a checkpoint.
    """
    jobs = []
    for threads in sorted({1, usable_cores()}):
        baseline = Baseline(checkpoint, threads, weights)
        for scale in guidances:
            for algorithm in (REVERSE, GS_JACOBI):
                row = replace(
                    template,
                    model=baseline.name,
                    engine=algorithm,
                    engine_version=baseline.version,
                    precision="fp32",
                    device="cpu",
                    threads=threads,
                    guidance=scale,
                    seed=subject.seed,
                    num_patches=baseline.spec.image.num_patches,
                )
                jobs.append(Job(row, BaselineContender(baseline, algorithm, subject, scale)))
    return jobs


def with_baseline(rows: Sequence[Row], jobs: Sequence[Job]) -> list[Row]:
    """Our rows, with how many times as fast as Model.reverse they are, and the baseline's rows."""
    exact = {job.row.guidance: job.output for job in jobs if job.row.engine == REVERSE}
    rivals = [judged(summarized(_checked(job, exact[job.row.guidance]))) for job in jobs]
    return [_with_ratio(row, rivals) for row in rows] + rivals


def _checked(job: Job, wanted: Floats | None) -> Row:
    """The row with hash and error of its picture, against Model.reverse on all cores."""
    images, row = job.output, job.row
    if images is None or wanted is None or row.status != "ok":
        return row
    error = max_abs_error(images, wanted)
    return replace(
        row,
        output_sha256=sha256_bytes(to_uint8(images)[0].tobytes()),
        psnr_db=max(-EQUAL_DB, min(EQUAL_DB, psnr_db(images, wanted))),
        max_abs_error=error if isfinite(error) else None,
        accuracy_source="baseline's picture against Model.reverse on all cores, in this run",
    )


def _with_ratio(row: Row, baseline: Sequence[Row]) -> Row:
    rivals = [
        other
        for other in baseline
        if other.engine == REVERSE and other.guidance == row.guidance and other.status == "ok"
    ]
    if not rivals or row.status != "ok":
        return row
    best = min(rivals, key=lambda other: other.median_ms or float("inf"))
    # every sample of both: taking turns, they were disturbed alike
    ratio, low, high = ratio_interval(row.samples_ms, best.samples_ms)
    doubted = [each.name for each in (row, best) if each.trust != "trusted"]
    note = (
        f"{ratio:.2f}x as fast as Model.reverse in torch eager on {best.threads} threads, its "
        f"faster setting (95 %: {low:.2f} to {high:.2f})"
    )
    if doubted:
        note += f"; unclear, as not trusted: {', '.join(doubted)}"
    return replace(row, notes=(*row.notes, note))
