"""How far off predictions were where calls were measured: the source of their error range."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from ..runtime.schema import from_json, parse_json

DATA = "validation.json"


@dataclass(frozen=True)
class ValidatedRun:
    """Calls of one model on one machine, by ``flowship bench predict --this-device --json``.

    Attributes:
        model, guided: what ran; in float32 with ONNX Runtime.
        ratios: predicted over measured time of each window.
    """

    model: str
    guided: bool
    windows: tuple[int, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Validated:
    """The whole of validation.json.

    Attributes:
        machine, date, versions: where and when it was measured.
    """

    schema_version: int
    machine: str
    date: str
    versions: str
    runs: tuple[ValidatedRun, ...]

    @property
    def factor(self) -> float:
        """How far off the worst call was, above 1; too much and too little count alike."""
        return max(max(ratio, 1 / ratio) for run in self.runs for ratio in run.ratios)

    def around(self, seconds: float) -> tuple[float, float]:
        """A prediction with that error in both directions: on other devices either may come."""
        return seconds / self.factor, seconds * self.factor

    @property
    def words(self) -> str:
        """For below a table."""
        calls = sum(len(run.ratios) for run in self.runs)
        models = " and ".join(dict.fromkeys(run.model for run in self.runs))
        return (
            f"range: a factor of {self.factor:.2f} in both directions, as far off as the worst of "
            f"{calls} measured calls of {models} was (float32, {self.machine}, {self.date}, "
            f"{self.versions}, predicted from that CPU's own measured limits); no GPU or phone was "
            "measured, and what is assumed below may be further off than this range"
        )


@cache
def validated() -> Validated:
    """The measurements that came with this version."""
    text = (resources.files(__package__) / "data" / DATA).read_text("utf-8")
    return from_json(Validated, parse_json(text, DATA), DATA)
