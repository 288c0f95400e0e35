"""What callers of the Python API give, numpy's and torch's types too, as plain Python values.

Recipes and plans are hashed and written as JSON, so only plain values go into them.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable, Mapping, Set
from math import isfinite
from numbers import Real
from typing import Any, TypeVar, cast

from .errors import UsageError

W = TypeVar("W", bound=str)

SEED_LIMIT = 1 << 64

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def show(value: Any) -> str:
    """What was given, in one short line."""
    return " ".join(_repr.repr(value).split())


def as_index(value: Any) -> int | None:
    """Any integer type as an int; None for all else, truth values too."""
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) or _is_array(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_real(value: Any) -> float | None:
    """Any finite number as a float; None for all else, truth values too."""
    number = plain(value)
    if isinstance(number, Real) and not isinstance(number, bool) and isfinite(number):
        return float(number)
    return None


def whole(value: Any, what: str) -> int:
    """An integer of any type.

    Raises:
        UsageError: anything else: 1.0, "7", True, None.
    """
    found = as_index(value)
    if found is None:
        raise UsageError(f"{what} {show(value)} is not a whole number")
    return found


def real(value: Any, what: str) -> float:
    """A finite number of any type, or an array that holds one without axes.

    Raises:
        UsageError: anything else: "1", True, None, NaN.
    """
    found = as_real(value)
    if found is None:
        raise UsageError(f"{what} {show(value)} is not a finite number")
    return found


def flag(value: Any, what: str) -> bool:
    """True or False; 1 and 0 count as them.

    Raises:
        UsageError: anything else, since "no" is true in Python.
    """
    found = plain(value)
    if isinstance(found, (bool, int)) and found in (0, 1):
        return bool(found)
    raise UsageError(f"{what} {show(value)} is neither True nor False")


def word(value: Any, choices: tuple[W, ...], what: str) -> W:
    """One of ``choices``.

    Raises:
        UsageError: anything else.
    """
    found = plain(value)
    if isinstance(found, str) and found in choices:
        return cast(W, str(found))
    if len(choices) == 2:
        raise UsageError(f"{what} {show(value)} is neither {choices[0]!r} nor {choices[1]!r}")
    raise UsageError(f"{what} {show(value)} is not one of {', '.join(choices)}")


def several(value: Any, what: str) -> list[Any] | None:
    """The items of a list, tuple, range, array or iterator; None for a single value.

    Raises:
        UsageError: a set or mapping, whose order means nothing.
    """
    if isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", 1) == 0:
        return None
    if isinstance(value, (Set, Mapping)):
        raise UsageError(f"{what} {show(value)} has no order: give a list")
    return list(value) if isinstance(value, Iterable) else None


def seeds_of(value: Any, what: str = "seed") -> list[int]:
    """One seed or several, each from 0 to 2^64 - 1.

    Raises:
        UsageError: no seed, or something that is none.
    """
    listed = several(value, what)
    found = [check_seed(item, what) for item in ([value] if listed is None else listed)]
    if not found:
        raise UsageError(f"no {what}: {show(value)} is empty")
    return found


def check_seed(value: Any, what: str = "seed", count: int = 1) -> int:
    """The first of ``count`` seeds that follow each other.

    Raises:
        UsageError: not an integer, or one of them does not fit 64 bits.
    """
    seed = whole(value, what)
    if not 0 <= seed <= SEED_LIMIT - count:
        more = f" with the {count - 1} after it" * (count > 1)
        raise UsageError(f"{what} {show(seed)}{more} is not between 0 and 2^64 - 1")
    return seed


def _is_array(value: Any) -> bool:
    """One with axes: torch takes [3] for 3."""
    return bool(getattr(value, "ndim", 0))


def plain(value: Any) -> Any:
    """The Python value in a numpy or torch scalar; anything else as it is."""
    if hasattr(value, "dtype") and hasattr(value, "item") and not _is_array(value):
        return value.item()
    return value
