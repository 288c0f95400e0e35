"""plan.json: patches that each block evaluates in one call, and what is known about convergence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .errors import UsageError
from .schema import from_json, parse_json, to_json
from .spec import MAX_PATCHES
from .values import as_real, real, show, whole

T = TypeVar("T")

PLAN = "plan.json"
DEFAULT_TOLERANCE = 1e-5  # float32; a smaller one never settles because of rounding
FLOOR_FACTOR = 3  # tolerance over the measured rounding noise of an engine and precision


@dataclass(frozen=True)
class Plan:
    """Window length of each block (1, sequential sampling, where none is named) and tolerance.

    Attributes:
        windows, guided_windows: patches in one call, by stage name, without and with guidance; one
            that is longer than a sequence means the whole sequence.
        tolerance: largest change of a patch between two calls that counts as none.
        min_committed: by stage name, the patches a call must commit on average for its window to
            pay on the device; a block that commits fewer goes on with W = 1.
    """

    windows: dict[str, int] = field(default_factory=dict)
    guided_windows: dict[str, int] = field(default_factory=dict)
    tolerance: float = DEFAULT_TOLERANCE
    min_committed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen for everybody else
        put(self, "windows", _windows(self.windows))
        put(self, "guided_windows", _windows(self.guided_windows))
        tolerance = as_real(self.tolerance)
        if tolerance is None or tolerance < 0:
            raise UsageError(f"tolerance is {show(self.tolerance)}, expected a number from 0 up")
        put(self, "tolerance", tolerance)
        needed = _by_stage(self.min_committed, "min_committed").items()
        put(self, "min_committed", {s: real(v, "min_committed") for s, v in needed})

    @staticmethod
    def uniform(stages: list[str], window: int, tolerance: float = DEFAULT_TOLERANCE) -> Plan:
        """The same window for every block, guided or not."""
        windows = dict.fromkeys(stages, window)
        return Plan(windows, windows, tolerance)

    def window(self, stage: str, guided: bool) -> int:
        return (self.guided_windows if guided else self.windows).get(stage, 1)

    @property
    def sha256(self) -> str:
        """Identity of the plan in recipes; windows of 1 are the same as none."""
        named = [
            {stage: length for stage, length in sorted(windows.items()) if length > 1}
            for windows in (self.windows, self.guided_windows)
        ]
        parts = [*named, self.tolerance, sorted(self.min_committed.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _by_stage(given: Mapping[str, T], what: str) -> dict[str, T]:
    if not isinstance(given, Mapping) or not all(isinstance(stage, str) for stage in given):
        raise UsageError(f"{what} {show(given)} is not a dictionary by stage name")
    return {str(stage): value for stage, value in given.items()}


def _windows(given: Mapping[str, int]) -> dict[str, int]:
    lengths = {s: whole(length, "a window of") for s, length in _by_stage(given, "windows").items()}
    for length in lengths.values():
        if not 1 <= length <= MAX_PATCHES:
            raise UsageError(f"a window of {str(length)[:40]} patches, expected 1 to {MAX_PATCHES}")
    return lengths


@dataclass(frozen=True)
class Convergence:
    """How fast one block settles with one window.

    Attributes:
        guidance: scale that it was measured with.
        committed: mean number of patches that a call commits; W = 1 has 1.
        worst: the smallest such mean of any seed.
    """

    stage: str
    window: int
    guidance: float
    committed: float
    worst: float


@dataclass(frozen=True)
class Profile:
    """What was measured about the model when it was exported; it does not depend on a device.

    Attributes:
        seeds, tolerance, measured_with: how.
        entries: one for each block, window and guidance.
        floors: rounding noise of a patch between window lengths, by "engine precision".
    """

    seeds: int
    tolerance: float
    measured_with: str
    entries: tuple[Convergence, ...]
    floors: dict[str, float] = field(default_factory=dict)

    def committed(self, stage: str, window: int, guided: bool) -> float:
        """Patches per call; between measured windows the next smaller one counts."""
        known = [
            e
            for e in self.entries
            if e.stage == stage and (e.guidance > 0) == guided and e.window <= window
        ]
        return max(known, key=lambda e: e.window).committed if known else 1.0


@dataclass(frozen=True)
class PlanFile:
    """The whole of plan.json: the bundle's default plan, and its profile if one was measured."""

    schema_version: int = 1
    plan: Plan = field(default_factory=Plan)
    profile: Profile | None = None

    def dumps(self) -> str:
        return json.dumps(to_json(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @staticmethod
    def loads(text: str, name: str = PLAN) -> PlanFile:
        """Parse and validate; BundleError with the file's name and the path of what is wrong."""
        return from_json(PlanFile, parse_json(text, name), name)

    def tolerance(self, engine: str, precision: str) -> float:
        """The plan's tolerance, but not below what rounding lets settle."""
        floors = self.profile.floors if self.profile else {}
        return max(self.plan.tolerance, FLOOR_FACTOR * floors.get(f"{engine} {precision}", 0.0))
