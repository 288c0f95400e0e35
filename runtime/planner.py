"""Choosing windows: the time of a call on this device over the patches that the call commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .plan import Profile
from .spec import FlowSpec

ONE_PATCH = "a picture of this model is one patch, which takes no call"
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
        options += [
            _option(spec, profile, block.name, window, guided, seconds)
            for window, seconds in sorted(times[block.name].items())
        ]
    best = {stage: windows[0] for stage, windows in paying_windows(options).items() if windows}
    return with_windows(options, best)


def paying_windows(options: Sequence[Option]) -> dict[str, list[int]]:
    """Windows of each stage that beat W = 1 by MIN_GAIN, the fastest first."""
    sequential = {o.stage: (1 - MIN_GAIN) * o.block_seconds for o in options if o.window == 1}
    fastest = sorted(options, key=lambda option: option.block_seconds)
    paying = [o for o in fastest if o.block_seconds <= sequential[o.stage] and o.window > 1]
    return {stage: [o.window for o in paying if o.stage == stage] for stage in sequential}


def with_windows(options: Sequence[Option], windows: Mapping[str, int]) -> list[Option]:
    """The options with those of these windows chosen; W = 1 for stages that are not named."""
    return [replace(o, chosen=o.window == windows.get(o.stage, 1)) for o in options]


def _option(
    spec: FlowSpec, profile: Profile, stage: str, window: int, guided: bool, seconds: float
) -> Option:
    committed = 1.0 if window == 1 else profile.committed(stage, window, guided)
    calls = (spec.image.num_patches - 1) / committed
    return Option(stage, window, guided, seconds, committed, calls * seconds)


def chosen_windows(options: Sequence[Option]) -> dict[str, int]:
    """Window of each stage."""
    return {option.stage: option.window for option in options if option.chosen}


def planned_seconds(options: Sequence[Option]) -> float:
    """Predicted time of the engine calls of one picture."""
    return sum(option.block_seconds for option in options if option.chosen)


def sequential_seconds(options: Sequence[Option]) -> float:
    """The same with W = 1 everywhere."""
    return sum(option.block_seconds for option in options if option.window == 1)
