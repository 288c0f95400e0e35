"""What an export is asked for, checked as far as it can be without the checkpoint and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..runtime.errors import UsageError
from .options import FLOATS, PRECISIONS, ConfigOverrides, Method, SearchLimit, TargetOptions

Choice = tuple[str, str]  # target and precision


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
        weights: which model of a checkpoint that holds several, such as ``ema``.
        replace: of a bundle that is there already keep nothing; otherwise its other targets and
            precisions stay as they are.
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
    weights: str | None = None
    replace: bool = False

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

    def choices(self) -> tuple[list[Choice], list[str]]:
        """The exports to make, and a note for each wish that a target cannot fulfil.

        Raises:
            UsageError: choices that no checkpoint makes right.
        """
        precisions = self.precisions or (("mixed",) if self.limit else ())
        choices, notes = plan_jobs(self.targets, precisions)
        mixed = any(precision == "mixed" for _, precision in choices)
        quantized = any(precision not in FLOATS for _, precision in choices)
        if self.limit is None and mixed:
            raise UsageError(
                "the precision mixed is searched: say --max-bpd-increase 0.005 or --max-size 200MB"
            )
        if self.max_size is not None and not mixed:
            raise UsageError(
                "--max-size is for the precision mixed, which is not among --precision"
            )
        if self.max_bpd_increase is not None and not quantized:
            raise UsageError(
                "--max-bpd-increase limits quantized precisions, and none is among --precision "
                f"{','.join(precisions)}"
            )
        if self.plot and not mixed:
            raise UsageError(
                "--plot draws the search of the precision mixed, which is not exported"
            )
        if self.options.onnx_kv_cache == "int8":
            self._check_int8_cache(choices)
        return choices, notes

    def _check_int8_cache(self, choices: Sequence[Choice]) -> None:
        wanted = [precision for target, precision in choices if target == "onnx"]
        if all(precision in FLOATS for precision in wanted):
            quantized = [p for p in PRECISIONS["onnx"] if p not in FLOATS]
            raise UsageError(
                "--onnx-kv-cache int8 is for quantized precisions of onnx: export one of "
                f"{', '.join(quantized)}"
            )
        if self.options.onnx_form == "core":
            raise UsageError("the onnx form core has a float KV cache: choose the form gqa")


def plan_jobs(targets: Sequence[str], precisions: Sequence[str]) -> tuple[list[Choice], list[str]]:
    """Targets and precisions to export, and a note for each wish that a target cannot fulfil.

    Raises:
        UsageError: an unknown target or precision, or a target that has none of the precisions.
    """
    _check_names(targets, precisions)
    choices: list[Choice] = []
    notes = []
    for name in dict.fromkeys(targets):
        own = PRECISIONS[name]
        wanted = list(dict.fromkeys(precisions)) or [own[0]]
        found = [p for p in wanted if p in own]
        missing = [p for p in wanted if p not in own]
        has = f"{name} has {', '.join(own)}"
        if name == "coreml" and "fp32" in missing:
            has += " (the state of a Core ML program is fp16)"
        if not found:
            raise UsageError(f"{name} has no precision {', '.join(missing)}: {has}")
        if missing:
            notes.append(f"{name}: no {', '.join(missing)}, exporting {', '.join(found)}; {has}")
        choices += [(name, precision) for precision in found]
    return choices, notes


def _check_names(targets: Sequence[str], precisions: Sequence[str]) -> None:
    if not targets:
        raise UsageError("no target to export to: say --targets onnx,executorch,coreml")
    for name in targets:
        if name not in PRECISIONS:
            raise UsageError(f"unknown target {name!r}: choose from {', '.join(PRECISIONS)}")
    known = list(dict.fromkeys(p for own in PRECISIONS.values() for p in own))
    for precision in precisions:
        if precision not in known:
            raise UsageError(f"unknown precision {precision!r}: choose from {', '.join(known)}")
