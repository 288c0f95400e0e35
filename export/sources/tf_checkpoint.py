"""TensorFlow's V2 checkpoints without TensorFlow: NAME.index and NAME.data-00000-of-0000N.

The index is a LevelDB table of small protocol buffers (tensor_bundle.proto): a header under the
empty key, and for each variable its type, shape and place in one of the data files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from .leveldb_table import TableError, entries, read_varint
from .tensor_file import TensorInfo, UnchangedFile, check_tensor_name

MAX_INDEX_BYTES = 64 << 20  # that of a published flow of 171 million parameters has 1 MB
_MAX_SHARDS, _MAX_RANK = 99_999, 8
_DTYPES = {  # types.proto; what is none of these (text, resources) is left out
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
_PARTS = re.compile(r"\.(index|meta|data-[0-9]{5}-of-[0-9]{5})$")
_PATH_IN_STATE = re.compile(r'^model_checkpoint_path:\s*"([^"]*)"', re.MULTILINE)


def open_tensorflow(path: Path) -> TensorFlowCheckpoint | None:
    """The checkpoint that ``path`` names: by its prefix, one of its files or their folder.

    Returns:
        None where it names none.

    Raises:
        CheckpointError: a damaged one, several, or a frozen graph.
    """
    if prefix := find_prefix(path):
        return TensorFlowCheckpoint(prefix)
    refuse_frozen_graph(path)
    return None


def find_prefix(path: Path) -> Path | None:
    """What the files of a checkpoint have in common, from one of them, itself or their folder.

    Returns:
        None where there is no such checkpoint.

    Raises:
        CheckpointError: the folder holds several, or its index is missing.
    """
    if path.is_dir():
        return _prefix_in(path)
    match = _PARTS.search(path.name)
    stem = path.name[: match.start()] if match else path.name
    prefix = path.with_name(stem)
    if index_of(prefix).is_file():
        return prefix
    if match and ".data-" in match[0] and path.is_file():
        raise CheckpointError(f"{path.name}: its index {stem}.index is missing")
    return None


def index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def refuse_frozen_graph(path: Path) -> None:
    """Say of a frozen graph that it is none of the files that can be read.

    Raises:
        CheckpointError: ``path`` is one, or a folder with nothing but one.
    """
    if path.is_dir():
        found = sorted(path.glob("*.pb")) if not list(path.glob("*.index")) else []
        path = found[0] if found else path
    if path.is_file() and (path.suffix == ".pb" or _begins_as_graph(path)):
        raise CheckpointError(
            f"{path.name}: a frozen TensorFlow graph: its weights are constants without the "
            "variables' names; name the checkpoint that it was made of (.index and .data files)"
        )


def _begins_as_graph(path: Path) -> bool:
    """A GraphDef begins with a node, a node with its name and its operation (graph.proto)."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        _, position = _skip_tag(head, 0, 0x0A)
        length, position = _skip_tag(head, position, 0x0A)
        position += length
        length, position = _skip_tag(head, position, 0x12)
    except (OSError, TableError):
        return False
    operation = head[position : position + length]
    return re.fullmatch(rb"[A-Z][A-Za-z0-9]{2,63}", operation) is not None


def _skip_tag(data: bytes, position: int, tag: int) -> tuple[int, int]:
    if data[position : position + 1] != bytes([tag]):
        raise TableError("another field")
    return read_varint(data, position + 1)


def _prefix_in(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.index"))
    if len(found) <= 1:
        return found[0].with_suffix("") if found else None
    state = folder / "checkpoint"  # TensorFlow's note of the last one saved
    if state.is_file() and state.stat().st_size < 1 << 16:
        match = _PATH_IN_STATE.search(state.read_text("utf-8", "replace"))
        name = re.split(r"[/\\]", match[1])[-1] if match else ""
        if folder / f"{name}.index" in found:
            return folder / name
    names = ", ".join(path.stem for path in found[:4])
    raise CheckpointError(f"{folder.name}: several checkpoints ({names}): name the one that counts")


@dataclass(frozen=True)
class _Entry:
    info: TensorInfo
    shard: int
    offset: int


class TensorFlowCheckpoint:
    """The variables of a V2 checkpoint (a TensorFile); each is read when it is asked for.

    Args:
        prefix: as ``find_prefix`` gives it.

    Raises:
        CheckpointError: truncated, damaged, compressed, partitioned, or shards are missing.
    """

    def __init__(self, prefix: Path) -> None:
        self._name, self._index = prefix.name, UnchangedFile(index_of(prefix))
        if self._index.num_bytes > MAX_INDEX_BYTES:
            raise CheckpointError(
                f"{self._index.path.name}: {self._index.num_bytes} bytes, an index has at most "
                f"{MAX_INDEX_BYTES}"
            )
        try:
            num_shards, found = _read_index(self._index.path)
        except TableError as error:
            raise CheckpointError(
                f"{self._index.path.name}: not a TensorFlow V2 checkpoint index, or a damaged one: "
                f"{error}"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{self._index.path.name}: {error.strerror}") from error
        self._entries = found
        self._shards = self._open_shards(prefix, num_shards)
        _check_places(self._shards, found)
        self.tensors: Mapping[str, TensorInfo] = {name: e.info for name, e in found.items()}

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return self._index.num_bytes + sum(shard.num_bytes for shard in self._shards.values())

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, the index first."""
        return (self._index.path, *(shard.path for shard in self._shards.values()))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorFile.read."""
        self._index.check()
        for name in names:
            entry = self._entries[name]
            shard = self._shards[entry.shard]
            shard.check()
            with open(shard.path, "rb") as file:
                file.seek(entry.offset)
                raw = np.fromfile(file, np.uint8, entry.info.nbytes)
            if raw.size != entry.info.nbytes:
                shard.check()
                raise CheckpointError(f"{shard.path.name}: {name} cannot be read whole")
            whole = torch.from_numpy(raw).view(entry.info.dtype) if raw.size else torch.empty(0)
            yield name, whole.reshape(entry.info.shape).to(entry.info.dtype)

    def _open_shards(self, prefix: Path, num_shards: int) -> dict[int, UnchangedFile]:
        shards = {}
        for shard in sorted({entry.shard for entry in self._entries.values()}):
            name = f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}"
            path = prefix.with_name(name)
            if shard >= num_shards:
                raise CheckpointError(
                    f"{self._index.path.name}: a variable lies in data file {shard} of {num_shards}"
                )
            if not path.is_file():
                raise CheckpointError(f"{self._index.path.name}: its data file {name} is missing")
            shards[shard] = UnchangedFile(path)
        return shards


def _read_index(path: Path) -> tuple[int, dict[str, _Entry]]:
    num_shards, found = 0, {}
    for key, value in entries(path.read_bytes()):
        if not key:
            num_shards = _header(path.name, value)
        elif not key.startswith(b"\0"):  # so do the parts of partitioned variables
            name = key.decode("utf-8", "backslashreplace")
            check_tensor_name(path.name, name)
            if entry := _entry(path.name, name, value):
                found[name] = entry
    if not num_shards:
        raise TableError("it has no header")
    return num_shards, found


def _header(file_name: str, value: bytes) -> int:
    """Number of data files."""
    header = dict(_numbers(value))
    if header.get(2, 0) != 0:
        raise CheckpointError(f"{file_name}: written by a big-endian machine, expected little")
    num_shards = header.get(1, 0)
    if not 1 <= num_shards <= _MAX_SHARDS:
        raise TableError(f"its header claims {num_shards} data files")
    return num_shards


def _entry(file_name: str, name: str, value: bytes) -> _Entry | None:
    """Type, shape and place of a variable; None for what is not numbers."""
    numbers, shape = {1: 0, 3: 0, 4: 0, 5: 0}, b""
    for field, item in _fields(value):
        if isinstance(item, int):
            numbers[field] = item
        elif field == 2:
            shape = item
        elif field == 7:
            raise CheckpointError(
                f"{file_name}: {name} is a partitioned variable: save it whole (a Saver of "
                "variables that have no partitioner)"
            )
    if numbers[1] not in _DTYPES:
        return None
    info = TensorInfo(_DTYPES[numbers[1]], _shape(name, shape))
    if info.nbytes != numbers[5]:
        raise TableError(
            f"{name} of the shape {info.shape} takes {info.nbytes} bytes, the index says "
            f"{numbers[5]}"
        )
    return _Entry(info, numbers[3], numbers[4])


def _shape(name: str, value: bytes) -> tuple[int, ...]:
    """TensorShapeProto: dimensions in field 2, each with its size in field 1."""
    sizes = [dict(_numbers(d)).get(1, 0) for f, d in _fields(value) if f == 2 and type(d) is bytes]
    if len(sizes) > _MAX_RANK or any(size >= 1 << 48 for size in sizes):
        raise TableError(f"{name} has the shape {tuple(sizes[:10])}")
    return tuple(sizes)


def _numbers(message: bytes) -> Iterator[tuple[int, int]]:
    return ((field, item) for field, item in _fields(message) if isinstance(item, int))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer: integers, or the bytes of everything else."""
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        kind = key & 7
        if kind == 0:
            number, position = read_varint(message, position)
            yield key >> 3, number
            continue
        if kind == 2:
            length, position = read_varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise TableError(f"a field of the unknown kind {kind}")
        if position + length > len(message):
            raise TableError("a field reaches beyond its message")
        yield key >> 3, message[position : position + length]
        position += length


def _check_places(shards: Mapping[int, UnchangedFile], found: Mapping[str, _Entry]) -> None:
    """Each variable lies inside its file, and no byte belongs to two."""
    ends = dict.fromkeys(shards, 0)
    order = sorted(found.items(), key=lambda e: (e[1].shard, e[1].offset, e[1].info.nbytes))
    for name, entry in order:
        shard, end = shards[entry.shard], entry.offset + entry.info.nbytes
        if end > shard.num_bytes:
            raise CheckpointError(
                f"{shard.path.name}: truncated, {name} would end at byte {end} and the file has "
                f"{shard.num_bytes}"
            )
        if entry.offset < ends[entry.shard]:
            raise CheckpointError(f"{shard.path.name}: {name} overlaps another variable")
        ends[entry.shard] = end
