"""Options that take lists and ranges, crossed to cases; a combination that cannot run says why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from ..runtime.bundle import Bundle
from ..runtime.errors import UsageError
from ..runtime.opening import made_for
from ..runtime.planner import ONE_PATCH

T = TypeVar("T", int, float)

MAX_VALUES = 1000  # of one option: a range typed wrong should not fill the day
_RANGE = re.compile(r"(\d+)(?:-|\.\.)(\d+)(?:([*+])(\d+))?")


@dataclass(frozen=True)
class Case:
    """One combination of settings. None is the engine's or the bundle's own choice.

    Attributes:
        bundle: number of the bundle in the list that was given.
        window: patches in one call; None is the plan (``auto``).
        spinning: idle threads wait actively; None is the saved plan's choice, else no.
    """

    bundle: int
    engine: str
    precision: str | None
    device: str
    threads: int | None
    window: int | None
    guidance: float
    spinning: bool | None = None


@dataclass(frozen=True)
class Grid:
    """The values of every option."""

    engines: Sequence[str] = ("onnx",)
    precisions: Sequence[str | None] = (None,)
    devices: Sequence[str] = ("cpu",)
    threads: Sequence[int | None] = (None,)
    windows: Sequence[int | None] = (None,)
    guidances: Sequence[float] = (0.0,)
    spinnings: Sequence[bool | None] = (None,)

    def cases(self, num_bundles: int) -> Iterator[Case]:
        """Every combination, the last option changing fastest."""
        axes = (self.engines, self.precisions, self.devices, self.threads)
        for what in product(range(num_bundles), *axes):
            for how in product(self.windows, self.guidances, self.spinnings):
                yield Case(*what, *how)


def parse_words(text: str, option: str) -> list[str]:
    """``onnx,executorch``."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r} has an empty place between commas")
    return list(dict.fromkeys(words))


def parse_counts(text: str, option: str) -> list[int | None]:
    """``1,2``, ``1-4``, ``1..8*2`` (1, 2, 4, 8), ``2..10+4`` (2, 6, 10), ``auto``, or a mixture.

    Raises:
        UsageError: anything else, or a number below 1.
    """
    counts: list[int | None] = []
    for word in parse_words(text, option):
        if word == "auto":
            counts.append(None)
        elif match := _RANGE.fullmatch(word):
            counts += _range(word, match, option)
        else:
            counts.append(_number(word, option, int))
        if counts and any(count is not None and count < 1 for count in counts):
            raise UsageError(f"{option} {word}: 1 is the least")
    return list(dict.fromkeys(counts))


def _range(word: str, match: re.Match[str], option: str) -> list[int]:
    first, last, operator, text = match.groups()
    value, end, by = int(first), int(last), int(text or 1)
    grows = by > 1 and value > 0 if operator == "*" else by > 0
    if end < value or not grows:
        raise UsageError(f"{option} {word}: not a rising range, as in 1-4, 1..8*2 or 2..10+4")
    found = []
    while value <= end:
        found.append(value)
        value = value * by if operator == "*" else value + by
        if len(found) > MAX_VALUES:
            raise UsageError(f"{option} {word}: more than {MAX_VALUES} values")
    return found


def parse_switches(text: str, option: str) -> list[bool | None]:
    """``no,yes``, or ``auto``.

    Raises:
        UsageError: anything else.
    """
    known = {"no": False, "yes": True, "auto": None}
    words = parse_words(text, option)
    for word in words:
        if word not in known:
            raise UsageError(f"{option} {word!r}: choose from {', '.join(known)}")
    return [known[word] for word in words]


def parse_numbers(text: str, option: str) -> list[float]:
    """``0,1.5,2``."""
    numbers = [_number(word, option, float) for word in parse_words(text, option)]
    for number in numbers:
        if not 0 <= number < float("inf"):
            raise UsageError(f"{option} {number:g} is not a number from 0 up")
    return list(dict.fromkeys(numbers))


def _number(word: str, option: str, kind: Callable[[str], T]) -> T:
    try:
        return kind(word)
    except ValueError:
        raise UsageError(f"{option} {word!r} is not a number, as in 1,2 or 1-4 or 1..8*2") from None


def refusal(case: Case, bundle: Bundle) -> str | None:
    """Why a case cannot run on a bundle; None where nothing speaks against it."""
    manifest, T = bundle.manifest, bundle.spec.image.num_patches
    if T == 1:
        return ONE_PATCH
    made = [a for a in manifest.artifacts if a.engine == made_for(case.engine) and a.role == "step"]
    if not made:
        has = ", ".join(sorted({a.engine for a in manifest.artifacts}))
        return f"the bundle has nothing for {case.engine}, only for {has}"
    precisions = list(dict.fromkeys(a.precision for a in made))
    precision = case.precision or precisions[0]
    if precision not in precisions:
        has = ", ".join(precisions)
        return f"the bundle has no {precision} for {case.engine}, only {has}"
    if case.window is None:
        return None
    if case.window > T:
        return f"a window of {case.window} is longer than the {T} patches of a picture"
    menus = [set(a.windows) for a in made if a.precision == precision and a.windows]
    missing = [menu for menu in menus if case.window not in menu]
    if missing:
        has = ", ".join(map(str, sorted(missing[0])))
        return f"the {case.engine} graphs have no window of {case.window}, only {has}"
    return None
