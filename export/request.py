"""What an export is asked for, and the work that follows: one job for each target and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..runtime.errors import UsageError
from ..runtime.manifest import Artifact
from .families.tarflow import ConfigOverrides
from .quantize.block import Method
from .quantize.search import SearchLimit
from .targets import TARGETS, Target, TargetOptions


@dataclass(frozen=True)
class ExportRequest:
    """What ``flowship export`` was asked for.

    Attributes:
        targets: names of targets.
        precisions: in the order wanted; empty takes each target's best. A target gets those of
            the list that it has, and at least one.
        data: real pictures for bits/dim (a folder, .npy, or .npz with ``images`` and ``labels``).
        name: of the bundle; the checkpoint's file name without its suffix where None.
        licence: of the weights, recorded in the manifest.
        method: of quantization; ``auto`` is ``gptq`` for models small enough to be compared picture
            by picture, and ``rtn`` for larger ones.
        max_bpd_increase: precisions that lose more bits/dim are refused, and ``mixed`` is searched
            to keep it.
        max_size: bytes of a target's ``mixed`` weights, which are searched to lose least.
        plot: where to write the search's frontier (SVG), beside the bundle's own copy.
    """

    targets: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] = ()
    overrides: ConfigOverrides = field(default_factory=ConfigOverrides)
    options: TargetOptions = field(default_factory=TargetOptions)
    data: Path | None = None
    name: str | None = None
    licence: str | None = None
    method: Method | Literal["auto"] = "auto"
    max_bpd_increase: float | None = None
    max_size: int | None = None
    plot: Path | None = None

    @property
    def limit(self) -> SearchLimit | None:
        """What the search keeps, if anything.

        Raises:
            UsageError: both limits, or one that makes no sense.
        """
        if self.max_bpd_increase is None and self.max_size is None:
            return None
        return SearchLimit(self.max_bpd_increase, self.max_size)

    def method_for(self, whole: bool) -> Method:
        """The method of quantization.

        Args:
            whole: the model is compared picture by picture.
        """
        if self.method == "auto":
            return "gptq" if whole else "rtn"
        return self.method


@dataclass(frozen=True)
class Job:
    """One target in one precision."""

    target: Target
    precision: str

    def __str__(self) -> str:
        return f"{self.target.engine} {self.precision}"

    def made(self, artifact: Artifact) -> bool:
        """Whether an artifact is this job's."""
        return (artifact.engine, artifact.precision) == (self.target.engine, self.precision)

    @property
    def is_quantized(self) -> bool:
        return self.precision in self.target.formats


def plan_jobs(targets: Sequence[str], precisions: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The exports to make, and a note for each wish that a target cannot fulfil.

    Raises:
        UsageError: an unknown target or precision, or a target that has none of the precisions.
    """
    jobs, notes = [], []
    for name in dict.fromkeys(targets):
        if name not in TARGETS:
            raise UsageError(f"unknown target {name!r}: choose from {', '.join(TARGETS)}")
        target = TARGETS[name]
        wanted = list(dict.fromkeys(precisions)) or [target.precisions[0]]
        found = [p for p in wanted if p in target.precisions]
        missing = [p for p in wanted if p not in target.precisions]
        has = f"{name} has {', '.join(target.precisions)}"
        if name == "coreml" and "fp32" in missing:
            has += " (the state of a Core ML program is fp16)"
        if not found:
            raise UsageError(f"{name} has no precision {', '.join(missing)}: {has}")
        if missing:
            notes.append(f"{name}: no {', '.join(missing)}, exporting {', '.join(found)}; {has}")
        jobs += [Job(target, precision) for precision in found]
    if not jobs:
        raise UsageError("no target to export to: say --targets onnx,executorch,coreml")
    known = {p for target in TARGETS.values() for p in target.precisions}
    for precision in precisions:
        if precision not in known:
            raise UsageError(f"unknown precision {precision!r}: choose from {', '.join(known)}")
    return jobs, notes
