"""Runs one function of an ML program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import BundleError, EngineError
from .ops import find_op
from .package import Package
from .program import Argument, Literal, Named, Operation, Value
from .types import FP16, STRING, Array, TensorType, round_half

State = dict[str, Array]
MAX_STATE_ELEMENTS = 1 << 30  # STARFlow's largest block has 302M for two guidance branches
_VARIADIC = {"values"}  # parameters that are lists even with one argument (concat, stack)
_LOADED_ONCE = "constexpr_"  # operators on constants that run when the function is loaded

# What a malformed program makes numpy raise.
_MALFORMED = (
    ValueError,
    IndexError,
    TypeError,
    KeyError,
    AttributeError,
    ArithmeticError,  # a stride or factor of 0 among them
    MemoryError,
)


@dataclass(frozen=True)
class _Step:
    """An operation made ready: its constants are at hand, the rest is looked up by name.

    Attributes:
        where: function, operator and name, for errors.
        moves: its results are values of its inputs, so that nothing needs rounding.
        references: a name, or a list of names and literals, for each parameter.
        dead: names that nothing reads afterwards.
    """

    run: Callable[..., Any]
    where: str
    moves: bool
    constants: dict[str, Value]
    references: tuple[tuple[str, str | tuple[Argument, ...]], ...]
    outputs: tuple[Named, ...]
    reads_state: str | None = None
    writes_state: str | None = None
    dead: tuple[str, ...] = ()


class Executable:
    """A loaded function.

    Attributes:
        inputs, outputs, states: their types by name.

    Raises:
        EngineError: there is no such function, or it has an operator that is not known here.
        BundleError: it is malformed.
    """

    def __init__(self, package: Package, name: str) -> None:
        function = package.function(name)
        self._package, self._where = package, f"{package.called}: {name}"
        self.inputs = {v.name: v.type for v in function.inputs if not v.type.is_state}
        self.states = {v.name: v.type for v in function.inputs if v.type.is_state}
        if sum(prod(t.static_shape) for t in self.states.values()) > MAX_STATE_ELEMENTS:
            raise BundleError(
                f"{self._where}: its states have more than {MAX_STATE_ELEMENTS} elements together"
            )
        self._constants: dict[str, Value] = {}
        types = dict(self.inputs)
        steps = []
        for operation in function.operations:
            self._check_names(operation, types)
            if operation.kind == "const" or operation.kind.startswith(_LOADED_ONCE):
                self._load_constant(operation)
            else:
                steps.append(self._prepare(operation))
            types |= {v.name: v.type for v in operation.outputs}
        missing = [o for o in function.outputs if o not in types]
        if missing:
            raise BundleError(f"{self._where}: nothing computes the output {missing[0]!r}")
        self.outputs = {o: types[o] for o in function.outputs}
        self._steps = _mark_dead(steps, {*self.outputs, *self._constants})

    def make_state(self) -> State:
        """A state of zeros, to be passed to run() (of every function with the same states)."""
        return {
            name: np.zeros(kind.static_shape, kind.dtype.compute)
            for name, kind in self.states.items()
        }

    def run(self, inputs: Mapping[str, Array], state: State | None = None) -> dict[str, Array]:
        """Run the function; ``state`` is updated in place.

        Returns:
            the outputs in the types that the program declares.

        Raises:
            EngineError: inputs or states are missing, unknown or of the wrong shape.
            BundleError: an operation is malformed.
        """
        state = {} if state is None else state
        values = self._checked_inputs(inputs)
        self._check_state(state)
        with np.errstate(all="ignore"):  # overflow to infinity is what float16 does
            for step in self._steps:
                self._run_step(step, values, state)
        found = {name: values.get(name, self._constants.get(name)) for name in self.outputs}
        return {
            name: np.asarray(value).astype(self.outputs[name].dtype.storage)
            for name, value in found.items()
        }

    def _run_step(self, step: _Step, values: dict[str, Value], state: State) -> None:
        if step.reads_state is not None:
            results: Any = state[step.reads_state]
        else:
            arguments = dict(step.constants)
            for key, reference in step.references:
                if isinstance(reference, str):
                    arguments[key] = values[reference]
                else:
                    arguments[key] = [self._lookup(item, values) for item in reference]
            results = _call(step, arguments)
        if step.writes_state is not None:
            name = step.writes_state
            state[name] = _settle(results, self.states[name], step)
        elif len(step.outputs) == 1:
            output = step.outputs[0]
            values[output.name] = _settle(results, output.type, step)
        else:
            if not isinstance(results, (tuple, list)) or len(results) != len(step.outputs):
                raise BundleError(f"{step.where}: expected {len(step.outputs)} results")
            for output, result in zip(step.outputs, results, strict=True):
                values[output.name] = _settle(result, output.type, step)
        for name in step.dead:
            del values[name]

    def _lookup(self, item: Argument, values: Mapping[str, Value]) -> Value:
        if isinstance(item, Literal):
            return item.value
        return values[item] if item in values else self._constants[item]

    def _load_constant(self, operation: Operation) -> None:
        where = self._describe(operation)
        if len(operation.outputs) != 1:
            raise BundleError(f"{where}: expected 1 output, it has {len(operation.outputs)}")
        output = operation.outputs[0]
        if operation.kind == "const":
            if "val" not in operation.attributes:
                raise BundleError(f"{where} has no value")
            value = operation.attributes["val"]
            if isinstance(value, np.ndarray) and not output.type.accepts(value.shape):
                raise BundleError(f"{where}: the value has the shape {value.shape}")
        else:
            step = self._prepare(operation)
            if step.references:
                raise BundleError(f"{where} reads {step.references[0]}, which is not a constant")
            key = (operation.kind, output.type, *map(_identify, sorted(step.constants.items())))
            value = self._package.unpacked(key, lambda: _unpack(step, output.type))
        self._constants[output.name] = value

    def _prepare(self, operation: Operation) -> _Step:
        where = self._describe(operation)
        constants: dict[str, Value] = dict(operation.attributes)
        references: list[tuple[str, str | tuple[Argument, ...]]] = []
        for key, arguments in operation.inputs.items():
            is_list = key in _VARIADIC or len(arguments) != 1
            dynamic = [a for a in arguments if isinstance(a, str) and a not in self._constants]
            if not dynamic:
                found = [self._lookup(a, {}) for a in arguments]
                constants[key] = found if is_list else found[0]
            elif is_list:
                references.append((key, arguments))
            else:
                references.append((key, dynamic[0]))
        if operation.kind in ("read_state", "write_state"):
            return self._prepare_state(operation, where, constants, references)
        op = find_op(operation.kind, where)
        op.check_parameters([*constants, *(key for key, _ in references)], where)
        return _Step(op.run, where, op.moves, constants, tuple(references), operation.outputs)

    def _prepare_state(
        self,
        operation: Operation,
        where: str,
        constants: dict[str, Value],
        references: list[tuple[str, str | tuple[Argument, ...]]],
    ) -> _Step:
        name = dict(references).pop("input", None)
        if not isinstance(name, str) or name not in self.states:
            raise BundleError(f"{where}: its input {name!r} is not a state")
        if operation.kind == "read_state":
            if len(operation.outputs) != 1:
                raise BundleError(f"{where}: expected 1 output")
            return _Step(_identity, where, True, {}, (), operation.outputs, reads_state=name)
        rest = tuple(r for r in references if r[0] != "input")
        if {*constants, *(key for key, _ in rest)} != {"data"} or operation.outputs:
            raise BundleError(f"{where}: expected the parameters input and data, and no output")
        return _Step(_identity, where, True, constants, rest, (), writes_state=name)

    def _describe(self, operation: Operation) -> str:
        return f"{self._where}: {operation.kind} {operation.name!r}"

    def _check_names(self, operation: Operation, known: Mapping[str, TensorType]) -> None:
        """Every name that is read exists already, every name that is made is new."""
        for arguments in operation.inputs.values():
            for name in arguments:
                if isinstance(name, str) and name not in known and name not in self.states:
                    raise BundleError(
                        f"{self._describe(operation)} reads {name!r}, which nothing computes before"
                    )
        for output in operation.outputs:
            if output.name in known or output.name in self.states:
                raise BundleError(f"{self._describe(operation)}: {output.name!r} exists already")

    def _checked_inputs(self, inputs: Mapping[str, Array]) -> dict[str, Value]:
        if inputs.keys() != self.inputs.keys():
            raise EngineError(
                f"{self._where}: got the inputs {', '.join(inputs) or 'none'}, expected "
                f"{', '.join(self.inputs) or 'none'}"
            )
        values: dict[str, Value] = {}
        for name, kind in self.inputs.items():
            array = np.asarray(inputs[name])
            if not kind.accepts(array.shape):
                raise EngineError(
                    f"{self._where}: the input {name} has the shape {array.shape}, expected {kind}"
                )
            array = array.astype(kind.dtype.compute, copy=False)
            values[name] = round_half(array) if kind.dtype is FP16 else array
        return values

    def _check_state(self, state: State) -> None:
        for name, kind in self.states.items():
            if name not in state or state[name].shape != kind.shape:
                raise EngineError(
                    f"{self._where}: the state {name} {kind} is missing or of another shape: use "
                    "make_state() of this function or of one with the same states"
                )


def _identity(data: Array) -> Array:
    return data


def _call(step: _Step, arguments: dict[str, Value]) -> Any:
    try:
        return step.run(**arguments)
    except _MALFORMED as error:
        raise BundleError(f"{step.where} cannot be computed: {error}") from error


def _unpack(step: _Step, kind: TensorType) -> Array:
    with np.errstate(all="ignore"):
        value = _settle(_call(step, step.constants), kind, step)
    return value.copy() if value.base is not None else value


def _identify(parameter: tuple[str, Value]) -> Hashable:
    """A key for a constant: large ones are the same array wherever they are read."""
    name, value = parameter
    if isinstance(value, np.ndarray):
        small = value.size <= 64  # immediate values are parsed anew for each function
        content = value.tobytes() if small else id(value)
        return name, value.shape, value.dtype.str, content
    return name, repr(value)


def _settle(value: Any, kind: TensorType, step: _Step) -> Array:
    """A result as the program declares it: shape checked, float16 rounded."""
    array = np.asarray(value)
    if not kind.accepts(array.shape):
        raise BundleError(f"{step.where}: the result has the shape {array.shape}, expected {kind}")
    if kind.dtype is FP16:
        done = step.moves and array.dtype == np.float32
        return array if done else round_half(array)
    if kind.dtype is STRING:
        return array
    return array.astype(kind.dtype.compute, copy=False)


def _mark_dead(steps: list[_Step], kept: set[str]) -> tuple[_Step, ...]:
    """For each step, what it is the last to read (or nobody ever reads), ``kept`` excepted."""
    marked, alive = [], set(kept)
    for step in reversed(steps):
        names = {output.name for output in step.outputs}
        for _, reference in step.references:
            items = (reference,) if isinstance(reference, str) else reference
            names |= {item for item in items if isinstance(item, str)}
        dead = tuple(sorted(names - alive))
        alive |= names
        marked.append(_Step(**{**vars(step), "dead": dead}))
    return tuple(reversed(marked))
