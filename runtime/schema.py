"""Strict conversion between JSON values and frozen dataclasses, with the path of whatever is wrong."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import BundleError

T = TypeVar("T")


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


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, path)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise BundleError(f"{path}: expected one of {choices}, got {value!r}")
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
        return {str(k): _decode(item, v, f"{path}.{k}") for k, v in value.items()}
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
    kinds = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    if value.get("kind") not in kinds:
        known = ", ".join(map(repr, kinds))
        raise BundleError(f"{path}.kind: expected one of {known}, got {value.get('kind')!r}")
    return _decode(kinds[value["kind"]], value, path)


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected an object, got {_show(value)}")
    hints, arguments = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            where = f"{path}.{field.name}"
            arguments[field.name] = _decode(hints[field.name], value[field.name], where)
        elif (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ):
            raise BundleError(f"{path}: the key {field.name!r} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"{path}: expected {names[kind]}, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
