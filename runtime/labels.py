"""Class labels as a user writes them, one for all pictures or one for each, and files of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy.typing as npt

from .errors import UsageError
from .input_paths import check_readable
from .spec import FlowSpec
from .text_files import read_text
from .values import as_index, plain, several, show

Label = str | SupportsIndex | None

_NUMBER = re.compile(r"[+-]?\d{1,18}")
MAX_NAMES_BYTES = 1 << 20  # 21,841 classes of ImageNet have 0.3 MB
NO_LABEL = "none"  # what asks for an unconditional picture of a conditional model


def resolve_labels(
    labels: Label | Sequence[Label] | npt.NDArray[Any], spec: FlowSpec, count: int
) -> tuple[int | None, ...]:
    """The class number of each of ``count`` pictures, None without a class.

    Args:
        labels: a name, a number, a sequence of them, or text such as ``"sneaker, 7, none"``. Case
            does not matter. Text of digits is always a number, even where a class has such a name.
            A model without classes ignores numbers.

    Raises:
        UsageError: the model has no such class, or none at all, or the counts differ.
    """
    found = [_resolve(label, spec) for label in _split(labels, spec)]
    if len(found) not in (1, count):
        pictures = f"{count} picture{'s' * (count != 1)}"
        raise UsageError(
            f"{len(found)} labels for {pictures}: give one label for all of them, or {count}"
        )
    return tuple(found * count if len(found) == 1 else found)


def _split(labels: Label | Sequence[Label] | npt.NDArray[Any], spec: FlowSpec) -> list[Label]:
    if isinstance(labels, str):
        whole = _find_name(labels, spec)  # a name may hold commas
        return [labels] if whole else list(labels.split(","))
    listed = several(labels, "label")
    return [labels] if listed is None else listed  # type: ignore[list-item]


def _resolve(given: Label, spec: FlowSpec) -> int | None:
    label: Label = plain(given)
    if label is None or (isinstance(label, str) and _is_none(label, spec)):
        return None
    if not isinstance(label, str):
        return _check_number(_to_int(label), spec)
    text = label.strip()
    if _NUMBER.fullmatch(text):
        return _check_number(int(text), spec)
    return _resolve_name(text, spec)


def _is_none(text: str, spec: FlowSpec) -> bool:
    return text.strip().casefold() == NO_LABEL and not _find_name(text, spec)


def _to_int(label: SupportsIndex) -> int:
    number = as_index(label)
    if number is None:
        raise UsageError(f"the label {show(label)} is neither a class name nor a whole number")
    return number


def _check_number(number: int, spec: FlowSpec) -> int | None:
    if not spec.num_classes:
        return None  # as in the reference, whose data loaders number everything
    if not 0 <= number < spec.num_classes:
        raise UsageError(
            f"there is no class {number}: this model has the classes 0 to {spec.num_classes - 1}"
        )
    return number


def _find_name(text: str, spec: FlowSpec) -> list[int]:
    wanted = text.strip().casefold()
    return [i for i, name in enumerate(spec.class_names) if name.strip().casefold() == wanted]


def _resolve_name(text: str, spec: FlowSpec) -> int:
    if not spec.num_classes:
        raise UsageError(f"this model has no classes: leave the label {text!r} out")
    if not spec.class_names:
        raise UsageError(
            f"the classes of this model have no names: instead of {text!r} give a number from 0 "
            f"to {spec.num_classes - 1}"
        )
    found = _find_name(text, spec)
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(map(str, found))
        raise UsageError(f"the classes {numbers} are both called {text!r}: give the number")
    names = {name.casefold(): name for name in spec.class_names}
    from difflib import get_close_matches  # for mistakes alone: no import at every start

    close = [names[name] for name in get_close_matches(text.casefold(), names, n=3)]
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"it has {', '.join(spec.class_names[:20])}{', ...' * (len(names) > 20)}"
    raise UsageError(f"this model has no class {text!r}: {hint}")


def read_label_names(path: Path) -> tuple[str, ...]:
    """Class names from a file, one a line, in the order of their numbers.

    UTF-8 with or without a byte order mark; line ends of any system; empty lines at the end do not
    count.

    Raises:
        UsageError: the file cannot be read, or holds a name that cannot be typed.
    """
    check_readable(path, "--label-names")
    what = f"--label-names {path}"
    try:
        text = read_text(path, what, most=MAX_NAMES_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{what} cannot be read: {reason}") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if not any(lines):
        raise UsageError(f"{what} holds no names: expected one a line")
    _check_names(lines, what)
    return tuple(lines)


def _check_names(names: Sequence[str], what: str) -> None:
    """Two classes may share a name, as ImageNet's cranes do: then ``--label`` takes the number."""
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(
                f"{what}, line {number}: empty, expected the name of class {number - 1}"
            )
        if not name.isprintable():
            raise UsageError(f"{what}, line {number}: {name[:40]!a} is not printable")
