"""Functions of an ML program as plain data, parsed from MIL.proto messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import BundleError, EngineError
from ..wire import Buffer, Message
from .types import STRING, Array, TensorType, from_storage, parse_type

Value = Any  # an array, a string, or a list of them
ReadConstant = Callable[[str, int, TensorType], Array]


@dataclass(frozen=True)
class Named:
    """A value's name and type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Literal:
    """An argument written into the program."""

    value: Value


Argument = str | Literal  # the name of a value, or the value


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: name of the operator.
        name: what the program calls this use of it.
        inputs: one or (for variadic inputs) several arguments each.
        attributes: the value of a ``const``, parameters of older ``constexpr`` operators.
    """

    kind: str
    name: str
    inputs: dict[str, tuple[Argument, ...]]
    outputs: tuple[Named, ...]
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Function:
    """Inputs (states among them), operations in order, and the names of the outputs."""

    name: str
    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def parse_function(message: Message, name: str, where: str, constant: ReadConstant) -> Function:
    """Decode a function; values in the weights file are read through ``constant``.

    Raises:
        BundleError: what is there is not a function of an ML program.
    """
    opset, blocks = message.text(2), message.map(3)
    if opset not in blocks:
        raise BundleError(f"{where}: no operations for the opset {opset!r}")
    block, parser = blocks[opset], _Parser(where, constant)
    return Function(
        name=name,
        inputs=tuple(parser.named(m) for m in message.messages(1)),
        operations=tuple(parser.operation(m) for m in block.messages(3)),
        outputs=tuple(block.texts(2)),
    )


class _Parser:
    def __init__(self, where: str, constant: ReadConstant) -> None:
        self.where, self.constant = where, constant

    def named(self, message: Message) -> Named:
        return Named(message.text(1), parse_type(message.message(2), self.where))

    def operation(self, message: Message) -> Operation:
        kind = message.text(1)
        if 4 in message:
            raise EngineError(
                f"{self.where}: the interpreter has no operator {kind!r} (control flow)"
            )
        attributes = {key: self.value(m) for key, m in message.map(5).items()}
        name = attributes.pop("name", "")
        inputs = {
            key: tuple(self.argument(m) for m in argument.messages(1))
            for key, argument in message.map(2).items()
        }
        outputs = tuple(self.named(m) for m in message.messages(3))
        return Operation(kind, str(name), inputs, outputs, attributes)

    def argument(self, message: Message) -> Argument:
        return Literal(self.value(message.message(2))) if 2 in message else message.text(1)

    def value(self, message: Message) -> Value:
        """A Value message: in the weights file, or immediate."""
        immediate = message.message(3)
        for field in (2, 3):  # tuple, list
            if field in immediate:
                return [self.tensor_value(m) for m in immediate.message(field).messages(1)]
        return self.tensor_value(message)

    def tensor_value(self, message: Message) -> Value:
        kind = parse_type(message.message(2), self.where)
        if 5 in message:
            blob = message.message(5)
            return self.constant(blob.text(1), blob.number(2), kind)
        immediate = message.message(3)
        if 1 not in immediate:
            raise BundleError(f"{self.where}: a constant {kind} has no value")
        return self.immediate(immediate.message(1), kind)

    def immediate(self, message: Message, kind: TensorType) -> Value:
        """A TensorValue message."""
        if kind.dtype is STRING:
            strings = message.message(4).texts(1)
            return strings[0] if len(strings) == 1 and kind.shape == () else strings
        for field in (1, 6, 7):  # floats, doubles, bytes
            if field in message:
                raw = Buffer(b"".join(message.message(field).raws(1)))
                return from_storage(raw, kind, self.where)
        numbers = [n for field in (2, 3, 5) for n in message.message(field).integers(1)]
        shape = kind.static_shape
        if len(numbers) != prod(shape):
            raise BundleError(f"{self.where}: a constant {kind} has {len(numbers)} values")
        try:
            return np.array(numbers, kind.dtype.compute).reshape(shape)
        except OverflowError as error:
            raise BundleError(f"{self.where}: a constant {kind}: {error}") from error
