"""Choosing windows: the time of a call on this device over the patches that the call commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .plan import Profile
from .spec import FlowSpec

MIN_GAIN = 0.05  # a window must beat sequential sampling by this, or the block stays at W = 1


@dataclass(frozen=True)
class Option:
    """One window for one block.

    Attributes:
        call_seconds: t(W), measured on this device.
        committed: a(W), patches per call, from the model's profile.
        block_seconds: (T - 1) t(W) / a(W).
        chosen: the plan uses it.
    """

    stage: str
    window: int
    guided: bool
    call_seconds: float
    committed: float
    block_seconds: float
    chosen: bool = False


def choose_windows(
    spec: FlowSpec, profile: Profile, times: Mapping[str, Mapping[int, float]], guided: bool
) -> list[Option]:
    """All options, the best of each block marked.

    Args:
        times: seconds of a call by stage and window; W = 1 is among them.
    """
    options = []
    for block in spec.ar_blocks:
        found = [
            _option(spec, profile, block.name, window, guided, seconds)
            for window, seconds in sorted(times[block.name].items())
        ]
        sequential = next(option for option in found if option.window == 1)
        best = min(found, key=lambda option: option.block_seconds)
        if best.block_seconds > (1 - MIN_GAIN) * sequential.block_seconds:
            best = sequential
        options += [replace(option, chosen=option is best) for option in found]
    return options


def _option(
    spec: FlowSpec, profile: Profile, stage: str, window: int, guided: bool, seconds: float
) -> Option:
    committed = 1.0 if window == 1 else profile.committed(stage, window, guided)
    calls = (spec.image.num_patches - 1) / committed
    return Option(stage, window, guided, seconds, committed, calls * seconds)


def chosen_windows(options: list[Option]) -> dict[str, int]:
    """Window of each stage."""
    return {option.stage: option.window for option in options if option.chosen}


def planned_seconds(options: list[Option]) -> float:
    """Predicted time of the engine calls of one picture."""
    return sum(option.block_seconds for option in options if option.chosen)


def sequential_seconds(options: list[Option]) -> float:
    """The same with W = 1 everywhere."""
    return sum(option.block_seconds for option in options if option.window == 1)
