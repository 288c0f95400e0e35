"""What the readers of checkpoint files have in common: tensors by name, read some at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ...runtime.text import readable

MAX_NAME_CHARACTERS = 256  # the longest of a published flow has 60


@dataclass(frozen=True)
class TensorInfo:
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class TensorFile(Protocol):
    """A file of named tensors."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What it holds, by name; known without reading the values."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors one after another, in the file's own type.

        Raises:
            CheckpointError: the file has changed since it was opened, or cannot be read.
        """


class UnchangedFile:
    """Tells whether a file that is opened again is still the one it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = self._stat()

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise CheckpointError(f"{readable(self.path.name)}: {error.strerror}") from error
        return found.st_size, found.st_mtime_ns, found.st_ino

    @property
    def num_bytes(self) -> int:
        return self._identity[0]

    def check(self) -> None:
        """Raise CheckpointError if the file was written or replaced since it was opened."""
        if self._stat() != self._identity:
            raise CheckpointError(
                f"{readable(self.path.name)}: the file was changed while it was being read"
            )


def check_tensor_name(file_name: str, name: str) -> None:
    """Names end up in messages on a terminal, so a stranger's must be short and printable."""
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise CheckpointError(
            f"{file_name}: a tensor name of {len(name)} characters, {name[:40]!a}..., is not "
            f"printable or longer than {MAX_NAME_CHARACTERS}"
        )
