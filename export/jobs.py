"""The work of an export: one job for each target and precision, and whether the model fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.errors import UsageError
from ..runtime.manifest import Artifact
from .families.tarflow import TarFlowConfig
from .options import TargetOptions
from .quantize.formats import FORMATS
from .request import Choice
from .targets import TARGETS, Target
from .targets.onnx import check_heads, check_int8_cache


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


def make_jobs(choices: Sequence[Choice]) -> list[Job]:
    """The targets behind the names."""
    return [Job(TARGETS[name], precision) for name, precision in choices]


def check_jobs(jobs: Sequence[Job], config: TarFlowConfig, options: TargetOptions) -> None:
    """What a target would refuse at the first block, before pictures are made and searched with.

    Raises:
        UsageError: sizes of the model that a target does not take.
    """
    for job in jobs:
        if job.target.engine == "onnx":
            check_heads(config, options)
        formats = job.target.formats.get(job.precision, ())
        if job.target.engine == "executorch" and len(formats) == 1:
            size = FORMATS[formats[0]].group_size
            if size and config.channels % size:
                raise UsageError(
                    f"executorch cannot store {config.channels} channels as {formats[0]}, they are "
                    f"not a multiple of {size}: leave {job.precision} out, int8 takes any number"
                )
    if options.onnx_kv_cache == "int8":
        check_int8_cache(config, [j.precision for j in jobs if j.target.engine == "onnx"])
