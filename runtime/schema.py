"""Strict conversion between JSON and frozen dataclasses, with the path of whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
import reprlib
import sys
import types
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import BundleError

T = TypeVar("T")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def parse_json(text: str, what: str) -> Any:
    """Strict JSON: unlike json.loads it takes no NaN or Infinity and no key twice.

    Other languages refuse the first and differ about the second, so that one file could mean two
    things.

    Raises:
        BundleError: not such JSON; the message begins with ``what``.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not JSON: {error}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_show(key)} is there twice")
        found[key] = value
    return found


def to_json(value: Any) -> Any:
    """Dataclasses to dictionaries and tuples to lists, recursively; None fields stay as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any, path: str) -> T:
    """Build the dataclass ``kind`` from a JSON value.

    Unknown keys are ignored (a newer minor version may add some); a missing key without a default
    or a value of the wrong type raises BundleError with its path, such as
    ``manifest.json: image.patch_size: expected an integer, got 'four'``.
    """
    result: T = _decode(kind, value, path)
    return result


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, path)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise BundleError(f"{path}: expected one of {choices}, got {_show(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise BundleError(f"{path}: expected a list, got {_show(value)}")
        item = get_args(kind)[0]
        return tuple(_decode(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise BundleError(f"{path}: expected an object, got {_show(value)}")
        item = get_args(kind)[1]
        return {k: _decode(item, v, f"{path}.{k[:80]}") for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    return _decode_scalar(kind, value, path)


def _decode_union(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if len(choices) == 1:
        return _decode(choices[0], value, path)
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected an object, got {_show(value)}")
    kinds = {get_args(_hints(choice)["kind"])[0]: choice for choice in choices}
    named = value.get("kind")
    if not isinstance(named, str) or named not in kinds:
        known = ", ".join(map(repr, kinds))
        raise BundleError(f"{path}.kind: expected one of {known}, got {_show(named)}")
    return _decode(kinds[named], value, path)


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected an object, got {_show(value)}")
    hints, arguments = _hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            where = f"{path}.{field.name}"
            arguments[field.name] = _decode(hints[field.name], value[field.name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BundleError(f"{path}: the key {field.name!r} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # 1e999 and integers of 400 digits
            raise BundleError(f"{path}: {_show(value)} is not a finite number")
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"{path}: expected {names[kind]}, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    return _repr.repr(value)  # bounded in length and depth, whatever a stranger wrote
