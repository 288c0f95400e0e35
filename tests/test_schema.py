"""JSON to dataclasses: what is right comes back, what is wrong is told with its path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from flowship.runtime.errors import BundleError
from flowship.runtime.schema import from_json, parse_json, to_json


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float


@dataclass(frozen=True)
class Square:
    kind: Literal["square"]
    side: float

    def __post_init__(self) -> None:
        if self.side <= 0:
            raise ValueError(f"side is {self.side}")


@dataclass(frozen=True)
class Drawing:
    name: str
    shapes: tuple[Circle | Square, ...]
    frame: Square | None = None
    sizes: tuple[int, ...] = ()
    labels: tuple[int | None, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    visible: bool = True
    colour: Literal["red", "blue"] = "red"


DRAWING = Drawing(
    name="d",
    shapes=(Circle("circle", 1.5), Square("square", 2.0)),
    frame=Square("square", 3.0),
    sizes=(1, 2),
    labels=(0, None),
    notes={"a": "b"},
    visible=False,
    colour="blue",
)


def test_round_trip() -> None:
    assert from_json(Drawing, to_json(DRAWING), "d") == DRAWING


def test_to_json() -> None:
    assert to_json(Drawing("x", ())) == {
        "name": "x", "shapes": [], "frame": None, "sizes": [], "labels": [], "notes": {},
        "visible": True, "colour": "red",
    }  # fmt: skip


def test_defaults_unknown_keys_and_whole_numbers() -> None:
    value = {"name": "x", "shapes": [{"kind": "circle", "radius": 2, "new": 1}], "newer": 1}
    found = from_json(Drawing, value, "d")
    assert found == Drawing("x", (Circle("circle", 2.0),))
    assert isinstance(found.shapes[0], Circle)
    assert isinstance(found.shapes[0].radius, float)


def _with(**changes: Any) -> dict[str, Any]:
    return {**to_json(DRAWING), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "d: expected an object, got []"),
        ({"name": "x"}, "d: the key 'shapes' is missing"),
        (_with(name=3), "d.name: expected a string, got 3"),
        (_with(name=None), "d.name: expected a string, got None"),
        (_with(sizes=[1, "two"]), "d.sizes[1]: expected an integer, got 'two'"),
        (_with(sizes=[True]), "d.sizes[0]: expected an integer, got True"),
        (_with(sizes=[1.0]), "d.sizes[0]: expected an integer, got 1.0"),
        (_with(sizes=3), "d.sizes: expected a list, got 3"),
        (_with(sizes={}), "d.sizes: expected a list, got {}"),
        (_with(labels=[None, "a"]), "d.labels[1]: expected an integer, got 'a'"),
        (_with(notes=[]), "d.notes: expected an object, got []"),
        (_with(notes={"a": 1}), "d.notes.a: expected a string, got 1"),
        (_with(visible=1), "d.visible: expected true or false, got 1"),
        (_with(colour="green"), "d.colour: expected one of 'red', 'blue', got 'green'"),
        (_with(colour=["red"]), "d.colour: expected one of 'red', 'blue', got ['red']"),
        (_with(frame=[]), "d.frame: expected an object, got []"),
        (_with(frame={"kind": "square", "side": -1}), "d.frame: side is -1"),
        (_with(shapes=[3]), "d.shapes[0]: expected an object, got 3"),
        (
            _with(shapes=[{"kind": "line"}]),
            "d.shapes[0].kind: expected one of 'circle', 'square', got 'line'",
        ),
        (
            _with(shapes=[{"kind": ["circle"]}]),
            "d.shapes[0].kind: expected one of 'circle', 'square', got ['circle']",
        ),
        (_with(shapes=[{}]), "d.shapes[0].kind: expected one of 'circle', 'square', got None"),
        (
            _with(shapes=[{"kind": "circle", "radius": "1"}]),
            "d.shapes[0].radius: expected a number, got '1'",
        ),
        (
            _with(shapes=[{"kind": "circle", "radius": float("inf")}]),
            "d.shapes[0].radius: inf is not a finite number",
        ),
        (
            _with(shapes=[{"kind": "circle", "radius": float("nan")}]),
            "d.shapes[0].radius: nan is not a finite number",
        ),
        (
            _with(shapes=[{"kind": "circle", "radius": True}]),
            "d.shapes[0].radius: expected a number, got True",
        ),
    ],
)
def test_wrong_values_are_told_with_their_path(value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        from_json(Drawing, value, "d")
    assert str(caught.value).startswith(message)


def test_messages_stay_short() -> None:
    deep: Any = "x" * 10**6
    for _ in range(300):
        deep = [deep, deep]
    for value in (deep, "y" * 10**6, {"k" * 10**6: 1}, 10**4000):
        with pytest.raises(BundleError) as caught:
            from_json(Drawing, _with(colour=value), "d")
        assert len(str(caught.value)) < 1000
    with pytest.raises(BundleError) as caught:
        from_json(Drawing, _with(notes={"k" * 10**6: 1}), "d")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("{} x", "Extra data"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"b": [{"a": 1, "a": 2}]}', "the key 'a' is there twice"),
        ("[" * 10**6, "recursion"),
        ("1" * 5000, "digits"),
    ],
)
def test_strict_json(text: str, words: str) -> None:
    with pytest.raises(BundleError, match=f"(?s)^file.json is not JSON: .*{words}"):
        parse_json(text, "file.json")


def test_json_of_other_programs() -> None:
    assert parse_json(' {"a": [1, 2.5, null, true, "\\u00fc"]}\n', "f") == {
        "a": [1, 2.5, None, True, "\u00fc"]
    }
