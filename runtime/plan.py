"""plan.json: patches that each block evaluates in one call, and when a patch has settled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from .schema import from_json, parse_json, to_json

PLAN = "plan.json"
DEFAULT_TOLERANCE = 1e-5  # float32; a smaller one never settles because of rounding


@dataclass(frozen=True)
class Plan:
    """Window length of each block (1, sequential sampling, where none is named) and tolerance.

    Attributes:
        windows: patches in one call, by stage name.
        tolerance: largest change of a patch between two calls that counts as none.
    """

    schema_version: int = 1
    windows: dict[str, int] = field(default_factory=dict)
    tolerance: float = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if self.tolerance < 0 or any(window < 1 for window in self.windows.values()):
            raise ValueError("a window is below 1 or the tolerance below 0")

    def window(self, stage: str) -> int:
        return self.windows.get(stage, 1)

    def dumps(self) -> str:
        return json.dumps(to_json(self), indent=1, sort_keys=True) + "\n"

    @property
    def sha256(self) -> str:
        """Identity of the plan in recipes."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()

    @staticmethod
    def loads(text: str) -> Plan:
        """Parse and validate; BundleError with the path of what is wrong."""
        return from_json(Plan, parse_json(text, PLAN), PLAN)
