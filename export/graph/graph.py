"""A network as a list of operations on named values: what a family emits and a target writes.

Operations are words (see vocabulary.py); each target has a rule for every word that it can write,
and refuses the others by name. Nothing here knows a family, a target or an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Dim = int | str
"""A length, or the name of one that is known when the graph runs, such as ``N`` or ``W``."""
Shape = tuple[Dim, ...]
Kind = Literal["float", "int"]


@dataclass(frozen=True, eq=False)
class Value:
    """What an operation gives: a tensor of ``shape``; floats are the target's own float type."""

    name: str
    shape: Shape
    kind: Kind = "float"

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """Keys and values of one layer's earlier rows, kept from call to call.

    Attributes:
        rows: how many there is room for.
        kv_heads, head_dim: of keys and values.
    """

    name: str
    rows: int
    kv_heads: int
    head_dim: int


class Graph:
    """Nodes in the order of execution, and what goes in and out.

    Attributes:
        inputs, outputs: by name.
        caches: by name; a graph that has one runs at a ``position``, the number of rows before its
            window.
        weights: shape of each stored array that it reads, by name.
        marks: values between two layers, in order: where a gradient may compute again what it did
            not keep.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}
        self.caches: dict[str, Cache] = {}
        self.weights: dict[str, tuple[int, ...]] = {}
        self.marks: list[Value] = []
        self._stored: dict[str, Value] = {}

    def input(self, name: str, shape: Sequence[Dim], kind: Kind = "float") -> Value:
        """Declare an input."""
        assert name not in self.inputs, f"{self.name} has the input {name} twice"
        self.inputs[name] = Value(name, tuple(shape), kind)
        return self.inputs[name]

    def output(self, name: str, value: Value) -> None:
        """Give ``value`` away under a name."""
        assert name not in self.outputs, f"{self.name} has the output {name} twice"
        self.outputs[name] = value

    def mark(self, value: Value) -> Value:
        """Say that a layer ends here."""
        self.marks.append(value)
        return value

    def weight(self, name: str, shape: Sequence[int]) -> Value:
        """A stored array of the model; the same value however often it is asked for."""
        if name not in self._stored:
            self.weights[name] = tuple(shape)
            self._stored[name] = self.node("weight", (), tuple(shape), name=name)
        value = self._stored[name]
        assert value.shape == tuple(shape), f"{name} is {value.shape}, asked for as {tuple(shape)}"
        return value

    def constant(self, array: npt.ArrayLike) -> Value:
        """A small array of the graph itself: floats, or integers as int64."""
        value = np.asarray(array)
        integers = value.dtype.kind in "iu"
        value = value.astype(np.int64 if integers else np.float64)
        return self.node(
            "constant", (), value.shape, kind="int" if integers else "float", array=value
        )

    def node(
        self,
        op: str,
        inputs: Sequence[Value],
        shape: Shape,
        *,
        kind: Kind = "float",
        **attributes: Any,
    ) -> Value:
        """Append an operation with one output."""
        return self.node_of(op, inputs, [shape], kind=kind, **attributes)[0]

    def node_of(
        self,
        op: str,
        inputs: Sequence[Value],
        shapes: Sequence[Shape],
        *,
        kind: Kind = "float",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Append an operation with an output for each shape."""
        number = len(self.nodes)
        outputs = tuple(
            Value(f"{op}{number}" + (f"_{i}" if i else ""), shape, kind)
            for i, shape in enumerate(shapes)
        )
        self.nodes.append(Node(op, tuple(inputs), outputs, attributes))
        return outputs

    @property
    def stored(self) -> dict[Value, str]:
        """The name of each stored array, by the value that it is in the graph."""
        return {value: name for name, value in self._stored.items()}

    def uses(self) -> dict[Value, int]:
        """How often each value is read, outputs of the graph included."""
        counts: dict[Value, int] = {}
        for value in (*(v for node in self.nodes for v in node.inputs), *self.outputs.values()):
            counts[value] = counts.get(value, 0) + 1
        return counts
