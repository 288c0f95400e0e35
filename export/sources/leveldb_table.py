"""The sorted table of LevelDB, as TensorFlow writes it: blocks of keys that share prefixes.

Format: https://github.com/google/leveldb/blob/main/doc/table_format.md. Everything is a stranger's:
each offset, length and number is checked before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # type of compression, checksum
_MAX_KEY_BYTES = 1024
_COMPRESSIONS = {1: "snappy", 2: "zstd"}


class TableError(ValueError):
    """Not a table that can be read; the message says why."""


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise TableError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise TableError("a number has more than 64 bits")


def entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a whole table, in its order.

    Raises:
        TableError: truncated, damaged, compressed, or no table at all.
    """
    if len(table) < _FOOTER_BYTES or not table.endswith(MAGIC):
        raise TableError("it does not end as a table does")
    footer = table[-_FOOTER_BYTES:]
    _, position = _handle(footer, 0)  # of the meta index, which has nothing for us
    index, _ = _handle(footer, position)
    previous: bytes | None = None
    for _, handle in _block(table, *index):
        for key, value in _block(table, *_handle(handle, 0)[0]):
            if previous is not None and key <= previous:
                raise TableError("its keys are not in order")
            previous = key
            yield key, value


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block, and the position after them."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER_BYTES > len(table) or size < 4:
        raise TableError(f"a block of {size} bytes at {offset} is not inside its {len(table)}")
    if kind := table[offset + size]:
        name = _COMPRESSIONS.get(kind, f"method {kind}")
        raise TableError(f"it is compressed ({name}), which TensorFlow's Saver never does")
    block = memoryview(table)[offset : offset + size]  # no copy, however often it is named
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    end = size - 4 - 4 * restarts
    if end < 0:
        raise TableError(f"a block of {size} bytes claims {restarts} restarts")
    return _entries(block, end)


def _entries(block: memoryview, end: int) -> Iterator[tuple[bytes, bytes]]:
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or position + added + length > end:
            raise TableError("an entry reaches beyond its block")
        if shared + added > _MAX_KEY_BYTES:
            raise TableError(f"a key has {shared + added} bytes")
        key = key[:shared] + bytes(block[position : position + added])
        position += added
        yield key, bytes(block[position : position + length])
        position += length
