"""A checkpoint in several files, read as one: each part is opened by its header alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from ...runtime.errors import CheckpointError
from .tensor_file import TensorFile, TensorInfo


class ShardedFile:
    """Parts whose tensors are just those that the index says.

    Raises:
        CheckpointError: a tensor is in another part, in none, or not in the index.
    """

    def __init__(self, label: str, parts: Mapping[str, str], files: Mapping[str, TensorFile]):
        tensors: dict[str, TensorInfo] = {}
        for name, file in files.items():
            for tensor, info in file.tensors.items():
                if parts.get(tensor) != name:
                    says = f"in {parts[tensor]}" if tensor in parts else "nowhere"
                    raise CheckpointError(
                        f"{label}: {tensor} is in {name}, the index says {says}: they do not "
                        "belong together"
                    )
                tensors[tensor] = info
        if missing := next((tensor for tensor in parts if tensor not in tensors), None):
            raise CheckpointError(
                f"{label}: {ascii(missing)[1:-1][:80]} is not in {parts[missing]}, where the index "
                "says: they do not belong together"
            )
        self.tensors: Mapping[str, TensorInfo] = tensors
        self._parts, self._files = parts, files

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorFile.read; part by part."""
        by_part: dict[str, list[str]] = {}
        for name in names:
            by_part.setdefault(self._parts[name], []).append(name)
        for part, own in by_part.items():
            yield from self._files[part].read(own)
