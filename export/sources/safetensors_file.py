"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

Read by offset, and written as a stream, so that neither needs more memory than a tensor.
Format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...runtime.atomic import atomic_file
from ...runtime.errors import CheckpointError
from ...runtime.text import readable
from .tensor_file import TensorInfo, UnchangedFile, check_tensor_name

_LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsFile:
    """A .safetensors file whose header is checked whole: each byte belongs to just one tensor.

    Raises:
        CheckpointError: truncated, damaged or not this format.
    """

    def __init__(self, path: Path) -> None:
        self._file = UnchangedFile(path)
        try:
            header, self._start = _read_header(path, self._file.num_bytes)
        except OSError as error:
            raise CheckpointError(f"{readable(path.name)}: {error.strerror}") from error
        entries = {name: _entry(readable(path.name), name, value) for name, value in header.items()}
        _check_offsets(readable(path.name), entries, self._file.num_bytes - self._start)
        self.tensors: Mapping[str, TensorInfo] = {name: info for name, (info, _) in entries.items()}
        self._offsets = {name: offset for name, (_, offset) in entries.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorFile.read."""
        self._file.check()
        with open(self._file.path, "rb") as file:
            for name in names:
                info = self.tensors[name]
                file.seek(self._start + self._offsets[name])
                raw = np.fromfile(file, np.uint8, info.nbytes)
                if raw.size != info.nbytes:
                    self._file.check()
                    raise CheckpointError(
                        f"{readable(self._file.path.name)}: {name} cannot be read whole"
                    )
                yield name, torch.from_numpy(raw).view(info.dtype).reshape(info.shape)


def _read_header(path: Path, num_bytes: int) -> tuple[dict[str, Any], int]:
    """The tensors' entries and the offset of their bytes."""
    with open(path, "rb") as file:
        prefix = file.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        start = _LENGTH.size + length
        if start > num_bytes or length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{readable(path.name)}: truncated or not a safetensors file, its header would "
                f"have {length} bytes and the file has {num_bytes}"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{readable(path.name)}: damaged or not a safetensors file, its header is not JSON"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{readable(path.name)}: the safetensors header is not a JSON object")
    header.pop(_METADATA, None)
    return header, start


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _entry(file_name: str, name: str, value: Any) -> tuple[TensorInfo, int]:
    """Type, shape and offset of one tensor."""
    check_tensor_name(file_name, name)
    where = f"{file_name}: the safetensors header has a wrong entry for {name}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise CheckpointError(f"{where}: dtype, shape and data_offsets are expected")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"{where}: the type {ascii(dtype)[:40]} is none of {', '.join(_DTYPES)}"
        )
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and len(shape) <= 8):
        raise CheckpointError(f"{where}: shape and data_offsets must be lists of whole numbers")
    info = TensorInfo(_DTYPES[dtype], tuple(shape))
    if offsets[1] - offsets[0] != info.nbytes:
        raise CheckpointError(
            f"{where}: {dtype} of the shape {info.shape} are {info.nbytes} bytes, data_offsets say "
            f"{offsets[1] - offsets[0]}"
        )
    return info, offsets[0]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _check_offsets(
    file_name: str, entries: Mapping[str, tuple[TensorInfo, int]], data_bytes: int
) -> None:
    """The tensors must follow one another from the first byte to the last, as the format says."""
    end = 0
    for name, (info, offset) in sorted(entries.items(), key=lambda e: (e[1][1], e[1][0].nbytes)):
        if offset != end:
            raise CheckpointError(
                f"{file_name}: {name} begins at byte {offset} of the data, expected {end}"
            )
        end += info.nbytes
    if end != data_bytes:
        state = "truncated" if end > data_bytes else "too long"
        raise CheckpointError(
            f"{file_name}: {state}, its tensors need {end} bytes and it has {data_bytes}"
        )


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[tuple[str, npt.NDArray[np.float32]]],
) -> None:
    """Write float32 tensors as they come; the file appears under its name only when complete.

    Args:
        path: file to write or replace.
        shapes: names and shapes of all tensors, in the order of ``arrays``.
        arrays: (name, array), each taken from the iterator when the one before is on disk.
    """
    with atomic_file(path) as file:
        file.write(_header(shapes))
        for (name, shape), (given, array) in zip(shapes.items(), arrays, strict=True):
            if (given, array.shape) != (name, shape):
                raise ValueError(f"expected {name} {shape}, got {given} {array.shape}")
            file.write(np.ascontiguousarray(array, "<f4").data)


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, Any] = {_METADATA: {"format": "pt"}}  # other readers ask for this
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return _LENGTH.pack(len(text)) + text
