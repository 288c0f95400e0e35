"""What training scripts leave beside a checkpoint: hyper-parameters as JSON or a pickled Namespace.

Read without running anything: a pickle may hold one argparse.Namespace (or dictionary) of plain
values, and its instructions are looked through before the first is obeyed.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError

NAMES = ("hparams.json", "config.json", "args.pickle")
MAX_BYTES = 1 << 20
# Everything that a Namespace of plain values needs in protocols 2 to 5; nothing that allocates by
# a length of its own (BYTEARRAY8) or calls a function (REDUCE, INST, OBJ).
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET"),
    *("LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "BUILD", "EMPTY_DICT", "EMPTY_LIST"),
    *("EMPTY_TUPLE", "DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM"),
    *("SETITEMS", "APPEND", "APPENDS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1"),
    *("BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
)


@dataclass(frozen=True)
class Sidecar:
    """Hyper-parameters by name.

    Attributes:
        name: of the file, with its folder where it lies one above the checkpoint.
    """

    name: str
    values: Mapping[str, Any]


def sidecars(checkpoint: Path) -> tuple[Sidecar, ...]:
    """Those beside a checkpoint, then those one folder above.

    Args:
        checkpoint: a file, the prefix of several, or a folder.

    Raises:
        CheckpointError: one of them is damaged or would run code.
    """
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    beside = beside.resolve()
    places = dict.fromkeys((beside, beside.parent))
    paths = [folder / name for folder in places for name in NAMES]
    return tuple(
        Sidecar(path.name if path.parent == beside else f"../{path.name}", _read(path))
        for path in paths
        if path.is_file()
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path.name}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{path.name}: more than {MAX_BYTES} bytes of hyper-parameters")
    return _unpickle(path.name, data) if path.suffix == ".pickle" else _parse(path.name, data)


def _parse(name: str, data: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: not JSON: {str(error)[:80]}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{name}: expected a JSON object of hyper-parameters")
    return values


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("argparse", "Namespace"):
            return argparse.Namespace
        raise pickle.UnpicklingError(f"it wants {module[:40]!a}.{name[:40]!a}")


def _unpickle(name: str, data: bytes) -> Mapping[str, Any]:
    where = f"{name}: refused, expected a pickled argparse.Namespace of plain values"
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in _OPCODES:
                raise pickle.UnpicklingError(f"it holds the instruction {opcode.name}")
            if opcode.name == "LONG_BINPUT" and (argument or 0) > len(
                data
            ):  # would allocate as much
                raise pickle.UnpicklingError(f"it numbers {argument} values")
        content = _Plain(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle can fail in every way
        raise CheckpointError(f"{where}: {str(error)[:100]}") from error
    values = vars(content) if isinstance(content, argparse.Namespace) else content
    if not isinstance(values, dict) or not _is_plain(values, len(data)):
        raise CheckpointError(f"{where}, it holds other things")
    return values


def _is_plain(value: Any, most: int) -> bool:
    """Whether a value is made of at most ``most`` plain ones; it may hold itself."""
    left = [value]
    for _ in range(most):
        if not left or len(left) > most:
            return not left
        item = left.pop()
        if isinstance(item, dict) and all(type(key) is str for key in item):
            left += item.values()
        elif isinstance(item, (list, tuple)):
            left += item
        elif item is not None and type(item) not in (bool, int, float, str):
            return False
    return not left
