"""Which operators there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ....errors import BundleError, EngineError
from ..types import MAX_ELEMENTS, Array

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Op:
    """An operator.

    Attributes:
        run: the function that computes it.
        moves: its result holds values of its inputs and nothing else, so it needs no rounding.
    """

    run: Callable[..., Any]
    moves: bool

    def check_parameters(self, names: Sequence[str], where: str) -> None:
        """Raise EngineError for a parameter that is not known here, or one that is missing."""
        known = inspect.signature(self.run).parameters
        unknown = [name for name in names if name not in known]
        if unknown:
            raise EngineError(f"{where}: the parameter {unknown[0]!r} is not supported")
        missing = [p.name for p in known.values() if p.default is p.empty and p.name not in names]
        if missing:
            raise BundleError(f"{where}: the parameter {missing[0]!r} is missing")


OPS: dict[str, Op] = {}


def op(*names: str, moves: bool = False) -> Callable[[Function], Function]:
    """Decorator: register a function as an operator under MIL's names."""

    def register(function: Function) -> Function:
        for name in names:
            OPS[name] = Op(function, moves)
        return function

    return register


def find_op(name: str, where: str) -> Op:
    """The operator of that name.

    Raises:
        EngineError: it is not known here.
    """
    if name not in OPS:
        raise EngineError(
            f"{where}: the interpreter has no operator {name!r}; Core ML itself may have it: use "
            "--engine coreml on a Mac"
        )
    return OPS[name]


def integers(array: Array) -> list[int]:
    """A small integer tensor as Python numbers."""
    return [int(n) for n in array.ravel()]


def integer(array: Array | int) -> int:
    return int(array) if isinstance(array, int) else int(array.item())


def check_size(shape: Sequence[int]) -> None:
    """Raise ValueError before something absurd is allocated."""
    count = 1
    for n in shape:
        if n < 0:
            raise ValueError(f"the shape {tuple(shape)} has a negative dimension")
        count *= n
    if count > MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {tuple(shape)} is larger than {MAX_ELEMENTS} elements")
