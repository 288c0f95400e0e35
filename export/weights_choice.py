"""Which tensors of a file are the model: names without wrappers, and one of several models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..runtime.errors import CheckpointError, UsageError
from .families.registry import FAMILIES, sniff_family
from .sources.tensor_file import TensorInfo
from .sources.tensor_names import plain_names

_TOP = "model"  # what --weights calls a model that stands in the file without a name
# Numbers that trainers keep beside weights; as floats they have to be known by name.
_COUNTERS = {"step", "n_averaged", "num_batches_tracked", "num_updates", "decay", "initted"}


@dataclass(frozen=True)
class ChosenWeights:
    """Attributes:
    name: of the model, where the file holds several.
    stored_names: the names in the file, by those that the reference saves.
    """

    name: str | None
    stored_names: Mapping[str, str]


def choose_weights(
    file_name: str, tensors: Mapping[str, TensorInfo], wanted: str | None
) -> ChosenWeights:
    """The one model of a file, or the one of several that is wanted.

    Wrappers' name parts are dropped anywhere; what is before ``blocks.`` (``state_dict.model.``) is
    dropped too, and then whatever does not begin with it is not part of the model.

    Raises:
        CheckpointError: no model is in it, or several and none is wanted.
        UsageError: what is wanted is not there.
    """
    stored = plain_names(file_name, tensors)
    found = _models(stored)
    if not found:
        sniff_family(stored, file_name)  # raises, saying what it is instead
    prefix = _pick(file_name, found, wanted)
    others = tuple(other for other in found if len(other) > len(prefix))
    names = {
        name[len(prefix) :]: stored[name]
        for name in stored
        if name.startswith(prefix)
        and not name.startswith(others)
        and not is_counter(name, tensors[stored[name]])
    }
    return ChosenWeights(found[prefix] if len(found) > 1 else None, names)


def is_counter(name: str, info: TensorInfo) -> bool:
    """Whether a tensor is one number that counts something, and no weight."""
    if len(info.shape) > 1 or info.nbytes != info.dtype.itemsize:
        return False
    whole = not (info.dtype.is_floating_point or info.dtype.is_complex)
    return whole or (not info.shape and name.rpartition(".")[2] in _COUNTERS)


def _models(stored: Mapping[str, str]) -> dict[str, str]:
    """What stands before ``blocks.`` in the names of each model, and what to call it."""
    groups: dict[str, set[str]] = {}
    for name in stored:
        if match := re.match(r"(|.*?\.)blocks\.[0-9]", name):
            prefix = match[1]
            variance = {"var"} if f"{prefix}var" in stored else set()
            groups.setdefault(prefix, variance).add(name[len(prefix) :])
    found = [p for p, group in groups.items() if any(f.matches(group) for f in FAMILIES)]
    return {prefix: _name(prefix, stored) for prefix in found}


def _name(prefix: str, stored: Mapping[str, str]) -> str:
    """Such as ``ema``, ``state_dict.model``; a wrapper's name where that is all there is."""
    if prefix:
        return prefix.removesuffix(".")
    first = next(name for plain, name in stored.items() if plain.startswith("blocks."))
    return first[: first.index("blocks.")].removesuffix(".") or _TOP


def _pick(file_name: str, found: Mapping[str, str], wanted: str | None) -> str:
    """The prefix of the model; the whole name counts first, then a part, then a word of it."""
    if wanted is None and len(found) == 1:
        return next(iter(found))
    names = list(found.values())
    shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
    if wanted is None:
        raise CheckpointError(
            f"{file_name}: several models in one file: say which with --weights, one of {shown}"
        )
    tests = (
        lambda name: name == wanted,
        lambda name: wanted in name.split("."),
        lambda name: wanted in re.split(r"[._]", name),
    )
    for test in tests:
        fitting = [prefix for prefix, name in found.items() if test(name)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            own = ", ".join(found[prefix] for prefix in fitting)
            raise UsageError(f"{file_name}: --weights {wanted} fits {own}: say one of them in full")
    alone = f"one model, called {shown}" if len(names) == 1 else f"the models {shown}"
    raise UsageError(f"{file_name}: there are no weights {wanted!r}, it holds {alone}")
