"""TensorFlow V2 checkpoints as small as tests need them, and wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = bytes.fromhex("57fb808b247547db")
TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "float16": 19}


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1))


def entry(
    dtype: int, shape: Sequence[int], offset: int, size: int, shard: int = 0, more: bytes = b""
) -> bytes:
    dims = b"".join(field(2, field(1, s)) for s in shape)
    place = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, dims) + place + b"\x35\0\0\0\0" + more  # a checksum of 0


def block(entries: Sequence[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """Every fourth key is written whole."""
    data, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % 4 == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        rest = key[shared:]
        data += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        last = key
    data += b"".join(struct.pack("<I", r) for r in restarts or [0])
    return data + struct.pack("<I", len(restarts or [0])) + bytes([kind]) + bytes(4)


def table(entries: Sequence[tuple[bytes, bytes]], per_block: int = 10, kind: int = 0) -> bytes:
    data, handles = b"", []
    for i in range(0, len(entries), per_block):
        part = entries[i : i + per_block]
        found = block(part, kind)
        handles.append((part[-1][0], varint(len(data)) + varint(len(found) - 5)))
        data += found
    meta, index = block([]), block(handles)
    places = varint(len(data)) + varint(len(meta) - 5)
    places += varint(len(data) + len(meta)) + varint(len(index) - 5)
    return data + meta + index + places.ljust(40, b"\0") + MAGIC


def write_checkpoint(prefix: Path, arrays: Mapping[str, npt.NDArray[Any]], shards: int = 1) -> Path:
    """Write both kinds of files; arrays go to the shards in turn."""
    data = [b""] * shards
    entries = [(b"", header(shards))]
    for i, (name, array) in enumerate(sorted(arrays.items())):
        raw, s = np.ascontiguousarray(array).tobytes(), i % shards
        place = entry(TYPES[array.dtype.name], array.shape, len(data[s]), len(raw), s)
        entries.append((name.encode(), place))
        data[s] += raw
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    for s, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{s:05d}-of-{shards:05d}").write_bytes(raw)
    return prefix
