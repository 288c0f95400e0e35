"""A lowered program with its weights cut out: a model is lowered once, not once for each block.

Lowering takes a minute or more and sees only shapes, and the blocks of a model differ in nothing
but their weights. So one block is lowered with marked stand-ins for its weights, and each real
block is that file with its own bytes in their place. XNNPACK names its weights by a hash of their
content and shares packed weights by name between programs, so the names are replaced as well.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....runtime.errors import EngineError

Array = npt.NDArray[Any]

_MAGIC = b"\x5a\x4c\x77\x57"  # as float32 or float16: large finite values that no graph contains
MARK_BYTES = 8
_MARKED = re.compile(re.escape(_MAGIC) + rb"(..)\x5a\x4c", re.DOTALL)
_NAME = re.compile(rb"[0-9a-f]{64}")


def stand_ins(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The same arrays, each begun with a mark that tells it apart.

    Raises:
        ValueError: an array is too small to be marked.
    """
    marked = {}
    for i, (name, array) in enumerate(weights.items()):
        if array.nbytes < MARK_BYTES:
            raise ValueError(f"{name} has {array.nbytes} bytes, a mark takes {MARK_BYTES}")
        stand_in = np.array(array, order="C")
        stand_in.reshape(-1).view(np.uint8)[:MARK_BYTES] = np.frombuffer(_mark(i), np.uint8)
        marked[name] = stand_in
    return marked


def _mark(i: int) -> bytes:
    # The index is spread over two bytes with a bit set in each, so that none of it reads as NaN.
    return _MAGIC + bytes([i % 200, 0x40 + i // 200]) + _MAGIC[:2]


@dataclass(frozen=True)
class _Slot:
    """A place in the file: a weight's bytes or, where ``named``, its name (64 hex digits)."""

    start: int
    end: int
    weight: str
    named: bool


class ProgramTemplate:
    """What stays the same in every block, and where the weights and their names go."""

    def __init__(self, path: Path, marked: Mapping[str, Array]) -> None:
        """Cut the marked weights out of the program at ``path``.

        Raises:
            EngineError: a weight is not in the file as it is, so the format is not as expected.
        """
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            slots = sorted(
                [*_find_weights(data, marked), *_find_names(data, marked)], key=lambda s: s.start
            )
            found = {slot.weight for slot in slots if not slot.named}
            if missing := [name for name in marked if name not in found]:
                raise EngineError(
                    f"ExecuTorch did not store {missing[0]} as it is: this version's format is "
                    "not known"
                )
            starts = [0, *(slot.end for slot in slots)]
            ends = [*(slot.start for slot in slots), len(data)]
            self._gaps = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        self._slots = slots

    def write(self, path: Path, weights: Mapping[str, Array]) -> None:
        """Write a block's program; names, shapes and types of its weights are the stand-ins'."""
        names = {name: _unique_name(name, array) for name, array in weights.items()}
        with open(path, "xb") as file:
            for gap, slot in zip(self._gaps, [*self._slots, None], strict=True):
                file.write(gap)
                if slot is not None and slot.named:
                    file.write(names[slot.weight])
                elif slot is not None:
                    array = np.ascontiguousarray(weights[slot.weight])
                    assert array.nbytes == slot.end - slot.start
                    file.write(array.data.cast("B"))


def _find_weights(data: mmap.mmap, marked: Mapping[str, Array]) -> Iterator[_Slot]:
    by_mark = {_mark(i): name for i, name in enumerate(marked)}
    for match in _MARKED.finditer(data):
        name = by_mark.get(match[0])
        if name is None:
            continue
        start, wanted = match.start(), marked[name]
        there = np.frombuffer(data[start : start + wanted.nbytes], np.uint8)
        if np.array_equal(there, wanted.reshape(-1).view(np.uint8)):
            yield _Slot(start, start + wanted.nbytes, name, named=False)


def _find_names(data: mmap.mmap, marked: Mapping[str, Array]) -> Iterator[_Slot]:
    by_hash = {
        hashlib.sha256(array.data.cast("B")).hexdigest().encode(): name
        for name, array in marked.items()
    }
    for match in _NAME.finditer(data):
        if match[0] in by_hash:
            yield _Slot(match.start(), match.end(), by_hash[match[0]], named=True)


def _unique_name(name: str, array: Array) -> bytes:
    """Of a weight's own name too: two equal weights of a block keep two entries in the file."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest().encode()
