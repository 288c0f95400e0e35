"""The tensors of one model in a checkpoint: found by name, checked by shape, read as float64."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import takewhile
from math import prod

import numpy as np
import torch
from torch import Tensor

from ....runtime.errors import CheckpointError
from ...sources.tensor_file import TensorFile
from ...sources.tensor_names import plain_names
from .model import Doubles

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.uint8, torch.int32, torch.int64, torch.bool)
_MAX_SIZE = 1 << 24
PORTION_BYTES = 96 << 20


class Tensors:
    """Named tensors; their values are read when they are asked for.

    Opening a file for a reading may take a second, so that tensors are read in portions: neighbours
    of at most PORTION_BYTES, of which two are kept (a step may lie in both).

    Args:
        file_name: for messages.
        stored: what the file calls each name.
    """

    def __init__(self, file: TensorFile, file_name: str, stored: Mapping[str, str]) -> None:
        self.file_name = file_name
        self.shapes: Shapes = {name: file.tensors[stored[name]].shape for name in stored}
        self._file, self._stored = file, stored
        self._sorted = sorted(stored)
        self._portions = self._divided()
        self._portion_of = {name: i for i, names in enumerate(self._portions) for name in names}
        self._kept: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def of_module(cls, file: TensorFile, file_name: str, own: re.Pattern[str]) -> Tensors:
        """Those of the one module in a file whose names match ``own`` below a common prefix.

        Raises:
            CheckpointError: several modules do.
        """
        stored = plain_names(file_name, file.tensors)
        prefixes = module_prefixes(stored, own)
        if len(prefixes) > 1:
            found = ", ".join(repr(prefix) for prefix in prefixes[:4])
            raise CheckpointError(
                f"{file_name}: several models in one file, under {found}: save the state_dict of "
                "the one that is meant"
            )
        (prefix,) = prefixes
        own_names = {n[len(prefix) :]: s for n, s in stored.items() if n.startswith(prefix)}
        return cls(file, file_name, own_names)

    def read(self, names: Iterable[str]) -> dict[str, Doubles]:
        """Arrays by name, from the file whenever they are asked for.

        Raises:
            CheckpointError: one holds NaN or infinity.
        """
        wanted = {self._stored[name]: name for name in names}
        return {
            wanted[stored]: self._finite(wanted[stored], tensor.to(torch.float64).numpy())
            for stored, tensor in self._file.read(wanted)
        }

    def under(self, prefix: str) -> dict[str, Doubles]:
        """All arrays whose names begin with ``prefix``, by the rest of their names."""
        return {
            name[len(prefix) :]: self._finite(name, self._from_portion(name))
            for name in self._names_under(prefix)
        }

    def shape(self, name: str, rank: int) -> Shape:
        """Of a tensor that has to be there.

        Raises:
            CheckpointError: it is missing, or has another number of dimensions.
        """
        found = self.shapes.get(name)
        if found is None:
            raise CheckpointError(f"{self.file_name}: the tensor {name} is missing")
        if len(found) != rank or 0 in found or max(found, default=1) > _MAX_SIZE:
            raise CheckpointError(
                f"{self.file_name}: {name} has the shape {found}, expected {rank} dimensions, none "
                "of them 0"
            )
        return found

    def num_values(self, counted: Callable[[str], bool]) -> int:
        """Values of the tensors whose names count."""
        return sum(prod(shape) for name, shape in self.shapes.items() if counted(name))

    def has(self, prefix: str) -> bool:
        """Whether any name begins so."""
        return bool(self._names_under(prefix))

    def count(self, prefix: str, separator: str = ".") -> int:
        """How many parts are numbered from 0 on under a prefix.

        Raises:
            CheckpointError: one of them is missing.
        """
        pattern = re.compile(re.escape(prefix) + r"([0-9]{1,6})" + re.escape(separator))
        found = {int(match[1]) for name in self.shapes if (match := pattern.match(name))}
        if missing := set(range(len(found))) - found:
            raise CheckpointError(
                f"{self.file_name}: {prefix}{min(missing)} is missing, but {prefix}{max(found)} is "
                "there"
            )
        return len(found)

    def check(
        self,
        expected: Shapes,
        port: str,
        *,
        unused: Collection[str] = (),
        integers: Collection[str] = (),
    ) -> None:
        """Each tensor is part of the model, has its shape, and floats where weights are.

        Args:
            unused: names that may be there, in any shape, and are not read.
            integers: names that may have an integer type.

        Raises:
            CheckpointError: a tensor is missing, unknown, or has another shape or type.
        """
        for name in sorted(expected.keys() | self.shapes.keys()):
            if name not in self.shapes:
                raise CheckpointError(f"{self.file_name}: the tensor {name} is missing")
            if name not in expected:
                if name in unused:
                    continue
                raise CheckpointError(
                    f"{self.file_name}: the tensor {name} is not part of a GLOW of {port}"
                )
            if self.shapes[name] != expected[name]:
                raise CheckpointError(
                    f"{self.file_name}: {name} has the shape {self.shapes[name]}, expected "
                    f"{expected[name]}"
                )
            dtype = self._file.tensors[self._stored[name]].dtype
            if dtype not in _FLOATS and not (name in integers and dtype in _INTEGERS):
                raise CheckpointError(
                    f"{self.file_name}: {name} has the type {str(dtype).removeprefix('torch.')}, "
                    "expected float32, float16, bfloat16 or float64: quantized checkpoints cannot "
                    "be exported"
                )

    def _names_under(self, prefix: str) -> list[str]:
        start = bisect_left(self._sorted, prefix)
        return list(takewhile(lambda name: name.startswith(prefix), self._sorted[start:]))

    def _divided(self) -> list[list[str]]:
        """All names in the order of their numbers, in portions."""
        portions: list[list[str]] = [[]]
        room = PORTION_BYTES
        for name in sorted(self._stored, key=_by_numbers):
            num_bytes = self._file.tensors[self._stored[name]].nbytes
            if num_bytes > room and portions[-1]:
                portions.append([])
                room = PORTION_BYTES
            portions[-1].append(name)
            room -= num_bytes
        return portions

    def _from_portion(self, name: str) -> Doubles:
        number = self._portion_of[name]
        if number not in self._kept:
            if len(self._kept) > 1:  # let go before the next is read
                del self._kept[next(iter(self._kept))]
            names = [self._stored[n] for n in self._portions[number]]
            self._kept[number] = dict(self._file.read(names))
        array: Doubles = self._kept[number][self._stored[name]].to(torch.float64).numpy()
        return array

    def _finite(self, name: str, array: Doubles) -> Doubles:
        if bad := array.size - int(np.count_nonzero(np.isfinite(array))):
            raise CheckpointError(
                f"{self.file_name}: {bad} of {array.size} values of {name} are NaN or infinite: "
                "the training diverged or the file is damaged"
            )
        return array


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts step 10 behind step 9."""
    parts = re.split(r"([0-9]{1,9})", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def module_prefixes(names: Iterable[str], own: re.Pattern[str]) -> list[str]:
    """What stands before the names that match ``own``: '' or something that ends in a dot."""
    found = dict.fromkeys(
        name[: match.start()]
        for name in names
        if (match := own.search(name)) and (not match.start() or name[match.start() - 1] == ".")
    )
    return list(found)
