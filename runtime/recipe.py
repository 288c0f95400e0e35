"""A recipe: everything that is needed to make a picture again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import BundleError, UsageError
from .guidance import GUIDE_WHAT, GuideWhat
from .hashing import is_sha256
from .plan import Plan
from .schema import from_json, parse_json, to_json
from .values import check_seed, flag, real, several, whole, word

RECIPE_VERSION = 2  # the newest that is read; what says nothing of it is written as version 1
PHILOX_NOISE = "philox4x32-10/as241"
MAX_PICTURES = 1 << 16
MAX_STEPS = 1000  # from one end to the other

_ENGINE_WORDS = ("engine", "engine_version", "device", "precision")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


@dataclass(frozen=True)
class Between:
    """Noise on the way from one end to another, both included.

    Attributes:
        steps: how many pictures lie on it.
        seeds: of the ends; none where they were latents.
        latents_sha256: of the ends' float32 noise [2, T, D] where they were latents, in the file
            beside the picture.
        rule: how the noise turns from one to the other.
    """

    steps: int
    seeds: tuple[int, ...] = ()
    latents_sha256: str | None = None
    rule: Literal["slerp"] = "slerp"

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= MAX_STEPS:
            raise ValueError(f"{self.steps} steps, expected 2 to {MAX_STEPS}")
        if self.latents_sha256 is not None and not is_sha256(self.latents_sha256):
            raise ValueError(f"latents_sha256 is {self.latents_sha256[:80]!r}, expected a sha256")
        if len(self.seeds) != (0 if self.latents_sha256 else 2):
            raise ValueError(f"{len(self.seeds)} seeds, expected two, or latents_sha256")
        object.__setattr__(self, "seeds", tuple(map(check_seed, self.seeds)))


@dataclass(frozen=True)
class Recipe:
    """How the pictures of one file were made.

    Attributes:
        flowship_version: of the program.
        bundle, bundle_sha256: name of the bundle and hash of its manifest.json.
        engine, engine_version, device, precision: what ran the graphs.
        plan_sha256, plan: identity of the sampling plan, and the plan itself.
        seeds: of each picture, 0 to 2^64 - 1 (JavaScript loses digits above 2^53); its number in
            the noise where that was given.
        labels: class of each picture, or None.
        guidance, guide_what, annealed_guidance, attn_temp: of the guidance rule.
        denoise: whether the score step followed.
        noise: ``philox4x32-10/as241``, or the sha256 of the float32 noise that was given instead.
        columns: pictures in a row of the grid; None is one picture.
        recipe_version: a newer one is refused, since it may say things that this program ignores.
        between: how the noise came about, where it lies between two ends (version 2).
    """

    flowship_version: str
    bundle: str
    bundle_sha256: str
    engine: str
    engine_version: str
    device: str
    precision: str
    plan_sha256: str
    seeds: tuple[int, ...]
    labels: tuple[int | None, ...]
    guidance: float = 0.0
    guide_what: GuideWhat = "ab"
    annealed_guidance: bool = False
    attn_temp: float = 1.0
    denoise: bool = False
    noise: str = PHILOX_NOISE
    columns: int | None = None
    plan: Plan = field(default_factory=Plan)
    recipe_version: int = 1
    between: Between | None = None

    def __post_init__(self) -> None:
        self._make_plain()
        self._check_words()
        self._check_pictures()
        if not self.attn_temp > 0 or not self.guidance >= 0:
            raise UsageError(
                f"guidance is {self.guidance} and attn_temp {self.attn_temp}, expected numbers "
                "from 0 up and above 0"
            )
        if self.columns is not None and self.columns < 1:
            raise UsageError(f"columns is {self.columns}, expected 1 or more")

    def _make_plain(self) -> None:
        """Whatever numbers were given: what is written is JSON."""
        seeds = several(self.seeds, "seeds") or []
        labels = several(self.labels, "labels") or []
        plain = {
            "seeds": tuple(check_seed(seed) for seed in seeds),
            "labels": tuple(None if label is None else whole(label, "label") for label in labels),
            "guidance": real(self.guidance, "guidance"),
            "guide_what": word(self.guide_what, GUIDE_WHAT, "guide_what"),
            "annealed_guidance": flag(self.annealed_guidance, "annealed_guidance"),
            "attn_temp": real(self.attn_temp, "attn_temp"),
            "denoise": flag(self.denoise, "denoise"),
            "columns": None if self.columns is None else whole(self.columns, "columns"),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)  # frozen for everybody else

    def _check_words(self) -> None:
        for name in ("bundle_sha256", "plan_sha256"):
            if not is_sha256(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)[:80]!r}, expected a sha256")
        for name in ("flowship_version", "bundle", *_ENGINE_WORDS):
            # They are printed and stored: no control characters of a terminal, no half letters.
            if not _PLAIN.fullmatch(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)[:80]!r}, expected a short name")

    def _check_pictures(self) -> None:
        if self.noise != PHILOX_NOISE and not is_sha256(self.noise):
            raise UsageError(f"noise is {self.noise[:80]!r}, expected {PHILOX_NOISE} or a sha256")
        if not 1 <= len(self.seeds) <= MAX_PICTURES or len(self.labels) != len(self.seeds):
            raise UsageError(
                f"{len(self.seeds)} seeds and {len(self.labels)} labels, expected the same number "
                f"from 1 to {MAX_PICTURES}"
            )
        if self.between is not None:
            self._check_between(self.between)
        if any(label is not None and label < 0 for label in self.labels):
            raise UsageError("a label is negative")

    def _check_between(self, between: Between) -> None:
        if self.recipe_version < 2 or self.noise == PHILOX_NOISE:
            raise ValueError("between needs recipe_version 2 and the noise's sha256")
        if max(self.seeds) >= between.steps:
            raise ValueError(f"picture {max(self.seeds)} of {between.steps} steps")

    @property
    def kind(self) -> str:
        """What the numbers in ``seeds`` are."""
        if self.noise == PHILOX_NOISE:
            return "seed"
        return "step" if self.between else "given noise"

    @property
    def description(self) -> str:
        """One line for people."""
        kind = "seed" if self.noise == PHILOX_NOISE else "given noise"
        return (
            f"{self.bundle}, {kind} {_ranges(self.seeds)}, guidance {self.guidance:g}, "
            f"{self.engine} {self.precision}"
        )

    def dumps(self) -> str:
        """Compact ASCII JSON."""
        return json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False)

    def to_json(self) -> dict[str, Any]:
        """What dumps() writes; ``between`` is left out where there is none, as in version 1."""
        found: dict[str, Any] = to_json(self)
        if self.between is None:
            del found["between"]
        return found

    @staticmethod
    def loads(text: str) -> Recipe:
        """Parse and validate.

        Raises:
            UsageError: not a recipe, or a newer one than this program knows.
        """
        try:
            data: Any = parse_json(text, "the recipe")
            version = data.get("recipe_version") if isinstance(data, dict) else None
            if isinstance(version, int) and version > RECIPE_VERSION:
                raise UsageError(
                    f"the recipe has version {version}, newer than {RECIPE_VERSION}, the newest "
                    "that this flowship reads: update flowship"
                )
            return from_json(Recipe, data, "recipe")
        except BundleError as error:
            raise UsageError(str(error)) from error


def _ranges(seeds: tuple[int, ...]) -> str:
    """``1-4, 9`` for (1, 2, 3, 4, 9), at most five of them."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:5]]
    return ", ".join(shown) + ", ..." * (len(runs) > 5)
