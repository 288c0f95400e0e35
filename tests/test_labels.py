"""Labels by name and number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bundles import tiny_spec

from flowship.runtime.errors import UsageError
from flowship.runtime.labels import resolve_labels

SPEC = tiny_spec()  # t-shirt, sneaker, ankle boot
BARE = tiny_spec(class_names=())
UNCONDITIONAL = tiny_spec(num_classes=0)


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        (None, 2, (None, None)),
        ("sneaker", 1, (1,)),
        ("SNEAKER", 3, (1, 1, 1)),
        (" Ankle Boot ", 1, (2,)),
        (2, 2, (2, 2)),
        ("2", 2, (2, 2)),
        ("0,2", 2, (0, 2)),
        ("sneaker, 0, t-shirt", 3, (1, 0, 0)),
        ("none", 2, (None, None)),
        ("1, None", 2, (1, None)),
        ([0, None, "sneaker"], 3, (0, None, 1)),
        ((1,), 3, (1, 1, 1)),
        ([np.int64(2), np.uint8(0)], 2, (2, 0)),
        (list(np.array([0, 1])), 2, (0, 1)),
    ],
)
def test_right_labels(labels: Any, count: int, expected: tuple[int | None, ...]) -> None:
    found = resolve_labels(labels, SPEC, count)
    assert found == expected
    assert all(type(label) in (int, type(None)) for label in found)


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        ("sneeker", 1, r"no class 'sneeker': did you mean 'sneaker'\?"),
        ("Boot ankle", 1, "no class 'Boot ankle'"),
        ("zzz", 1, "no class 'zzz': it has t-shirt, sneaker, ankle boot"),
        (3, 1, "no class 3: this model has the classes 0 to 2"),
        ("-1", 1, "no class -1: this model has the classes 0 to 2"),
        ("0,1", 3, "2 labels for 3 pictures: give one label for all of them, or 3"),
        ([0, 1], 1, "2 labels for 1 picture: give"),
        ([], 2, "0 labels for 2 pictures"),
        ("0,,1", 3, "no class ''"),
        ("", 1, "no class ''"),
        ("+-1", 1, "no class '\\+-1'"),
        ("9" * 5000, 1, "no class '9999"),
        (1.5, 1, "the label 1.5 is neither a class name nor a whole number"),
        (True, 1, "the label True is neither"),
        ([object()], 1, "is neither a class name nor a whole number"),
    ],
)
def test_wrong_labels(labels: Any, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_labels(labels, SPEC, count)


def test_classes_without_names() -> None:
    assert resolve_labels("2,0", BARE, 2) == (2, 0)
    with pytest.raises(UsageError, match=r"no names: instead of 'cat' give a number from 0 to 2"):
        resolve_labels("cat", BARE, 1)


def test_models_without_classes() -> None:
    assert resolve_labels(None, UNCONDITIONAL, 2) == (None, None)
    assert resolve_labels([None, None], UNCONDITIONAL, 2) == (None, None)
    assert resolve_labels("7", UNCONDITIONAL, 2) == (None, None)
    assert resolve_labels([0, 3], UNCONDITIONAL, 2) == (None, None)
    with pytest.raises(UsageError, match="no classes"):
        resolve_labels("sneaker", UNCONDITIONAL, 2)


def test_names_with_commas_twins_and_digits() -> None:
    names = ("tench, Tinca tinca", "crane", "Crane", "none", "0")
    spec = tiny_spec(num_classes=5, class_names=names)
    assert resolve_labels("Tench, tinca Tinca".replace("tinca T", "Tinca t"), spec, 1) == (0,)
    assert resolve_labels("none", spec, 1) == (3,)
    assert resolve_labels("0", spec, 1) == (0,)
    with pytest.raises(UsageError, match="the classes 1 and 2 are both called 'crane'"):
        resolve_labels("crane", spec, 1)
