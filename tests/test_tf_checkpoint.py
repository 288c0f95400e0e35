"""TensorFlow's checkpoints and training scripts' sidecars: how they are found, and hostile ones."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tf_files import MAGIC, block, entry, field, header, table, varint, write_checkpoint

from flowship.export.sources.sidecars import sidecars
from flowship.export.sources.tf_checkpoint import TensorFlowCheckpoint, open_tensorflow
from flowship.runtime.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "glow" / "openai_affine"
ARRAYS: dict[str, npt.NDArray[Any]] = {
    "a/W": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/W/ExponentialMovingAverage": np.ones((2, 3), np.float32),
    "a/b": np.zeros((1, 0), np.float32),
    **{f"b/{i:03d}/logs": np.full(3, i, np.float64) for i in range(40)},
    "indices": np.array([2, 0, 1], np.int32),
    "scalar": np.array(7.5, np.float32),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_variables_of_several_blocks_and_shards(shards: int, tmp_path: Path) -> None:
    file = TensorFlowCheckpoint(write_checkpoint(tmp_path / "model.ckpt", ARRAYS, shards))
    assert {n: i.shape for n, i in file.tensors.items()} == {n: a.shape for n, a in ARRAYS.items()}
    for name, tensor in file.read(ARRAYS):
        assert np.array_equal(tensor.numpy(), ARRAYS[name])
        assert str(tensor.dtype).removeprefix("torch.") == ARRAYS[name].dtype.name
    assert len(file.paths) == 1 + shards
    assert file.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_what_tensorflow_itself_wrote() -> None:
    file = open_tensorflow(GOLDEN)
    assert file is not None and len(file.tensors) == 217
    assert file.tensors["model/0/0/f1/l_1/W"].shape == (3, 3, 7, 48)
    ((_, W),) = file.read(["model/0/0/invconv/W"])
    assert W.dtype == torch.float32 and abs(torch.linalg.det(W)) > 0.1


def test_a_checkpoint_is_named_in_four_ways(tmp_path: Path) -> None:
    prefix = write_checkpoint(tmp_path / "model.ckpt-20", ARRAYS)
    names = ("model.ckpt-20", "model.ckpt-20.index", "model.ckpt-20.data-00000-of-00001", "")
    for name in names:
        file = open_tensorflow(tmp_path / name)
        assert file is not None and file.paths[0] == prefix.with_name("model.ckpt-20.index")
    assert open_tensorflow(tmp_path / "other.ckpt") is None
    write_checkpoint(tmp_path / "model.ckpt-30", ARRAYS)
    with pytest.raises(CheckpointError, match=r"several checkpoints \(model.ckpt-20, model"):
        open_tensorflow(tmp_path)
    for path in ("model.ckpt-30", "/somewhere/else/model.ckpt-30"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        file = open_tensorflow(tmp_path)
        assert file is not None and file.paths[0].name == "model.ckpt-30.index"
    (tmp_path / "model.ckpt-30.index").unlink()
    with pytest.raises(CheckpointError, match=r"its index model\.ckpt-30\.index is missing"):
        open_tensorflow(tmp_path / "model.ckpt-30.data-00000-of-00001")


def test_frozen_graphs_are_refused(tmp_path: Path) -> None:
    node = field(1, b"model/const") + field(2, b"Const")
    graph = tmp_path / "graph_optimized.pb"
    graph.write_bytes(field(1, node) * 3)
    for path in (graph, tmp_path):
        with pytest.raises(CheckpointError, match=r"optimized\.pb: a frozen TensorFlow graph"):
            open_tensorflow(path)
    renamed = graph.rename(tmp_path / "graph_optimized")
    with pytest.raises(CheckpointError, match="graph_optimized: a frozen TensorFlow graph"):
        open_tensorflow(renamed)


def _write(folder: Path, index: bytes, data: bytes = bytes(64)) -> Path:
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def _index(*entries: tuple[bytes, bytes], head: bytes | None = None) -> bytes:
    return table([(b"", header() if head is None else head), *entries])


F32 = entry(1, [4], 0, 16)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not end as a table"),
    "text": (b"model_checkpoint_path" * 10, "does not end as a table"),
    "footer alone": (bytes(40) + MAGIC, "a block of 0 bytes"),
    "no header": (table([(b"w", F32)]), "it has no header"),
    "big-endian": (_index((b"w", F32), head=header(endianness=1)), "big-endian machine"),
    "many data files": (_index((b"w", F32), head=header(10**9)), "1000000000 data files"),
    "no data files": (_index((b"w", F32), head=header(0)), "0 data files"),
    "another data file": (_index((b"w", entry(1, [4], 0, 16, shard=3))), "in data file 3 of 1"),
    "snappy": (table([(b"", header())], kind=1), r"compressed \(snappy\)"),
    "zstd": (table([(b"", header())], kind=2), r"compressed \(zstd\)"),
    "beyond the file": (_index((b"w", entry(1, [4], 60, 16))), "would end at byte 76"),
    "huge offset": (_index((b"w", entry(1, [4], 2**62, 16))), "truncated, w would end"),
    "size and shape": (_index((b"w", entry(1, [5], 0, 16))), r"\(5,\) takes 20 bytes, .* says 16"),
    "huge shape": (_index((b"w", entry(1, [2**40, 2**40], 0, 16))), "takes .* says 16"),
    "negative size": (_index((b"w", entry(1, [2**64 - 1], 0, 16))), "has the shape"),
    "many dimensions": (_index((b"w", entry(1, [1] * 99, 0, 4))), "has the shape"),
    "overlap": (_index((b"v", F32), (b"w", entry(1, [4], 8, 16))), "w overlaps another variable"),
    "same place twice": (_index((b"v", F32), (b"w", F32)), "w overlaps another variable"),
    "same name twice": (_index((b"v", F32), (b"v", F32)), "keys are not in order"),
    "partitioned": (_index((b"part/w", F32 + field(7, b""))), "part/w is a partitioned variable"),
    "unprintable": (_index((b"\x1b[2Jw", F32)), "is not printable"),
    "long name": (_index((b"w" * 300, F32)), "a tensor name of 300 characters"),
    "long key": (_index((b"w" * 2000, F32)), "a key has 2000 bytes"),
    "endless number": (_index((b"w", b"\x08" + b"\xff" * 12)), "more than 64 bits"),
    "cut number": (_index((b"w", b"\x08\xff")), "a number is cut off"),
    "field beyond": (_index((b"w", b"\x12\x7f")), "reaches beyond its message"),
    "unknown field": (_index((b"w", b"\x0b")), "unknown kind 3"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_indexes(case: str, tmp_path: Path) -> None:
    index, reason = HOSTILE[case]
    with pytest.raises(CheckpointError, match=reason):
        TensorFlowCheckpoint(_write(tmp_path, index))


def _footer(index: bytes, offset: int, size: int) -> bytes:
    places = varint(0) + varint(0) + varint(offset) + varint(size)
    return index + places.ljust(40, b"\0") + MAGIC


@pytest.mark.parametrize(("offset", "size"), [(0, 10**6), (2**40, 8), (0, 3), (5, 2**63)])
def test_blocks_outside_of_the_index(offset: int, size: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a block of"):
        TensorFlowCheckpoint(_write(tmp_path, _footer(bytes(100), offset, size)))


def _raw(data: bytes) -> bytes:
    """A table whose only data block has these entries."""
    found = data + struct.pack("<II", 0, 1) + bytes(5)
    index = block([(b"z", varint(0) + varint(len(found) - 5))])
    return _footer(found + index, len(found), len(index) - 5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (varint(5) + varint(1) + varint(0) + b"w", "reaches beyond its block"),  # shares nothing
        (varint(0) + varint(99) + varint(0) + b"w", "reaches beyond its block"),
        (varint(0) + varint(1) + varint(2**50) + b"w", "reaches beyond its block"),
        (varint(0) + varint(1) + varint(0) + b"b" + varint(0) + varint(1) + b"\0a", "not in order"),
    ],
)
def test_entries_outside_of_their_block(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        TensorFlowCheckpoint(_write(tmp_path, _raw(data)))


def test_blocks_that_are_named_again_and_again_end(tmp_path: Path) -> None:
    data = block([(b"", header())])
    handles = [(b"%04d" % i, varint(0) + varint(len(data) - 5)) for i in range(1000)]
    index = block(handles)
    with pytest.raises(CheckpointError, match="keys are not in order"):
        TensorFlowCheckpoint(_write(tmp_path, _footer(data + index, len(data), len(index) - 5)))


def test_every_cut_of_an_index_is_an_error(tmp_path: Path) -> None:
    whole = (GOLDEN / "model_best_loss.ckpt.index").read_bytes()
    for length in range(0, len(whole), 197):
        with pytest.raises(CheckpointError):
            TensorFlowCheckpoint(_write(tmp_path, whole[:length]))


def test_every_changed_byte_is_an_error_or_other_contents(tmp_path: Path) -> None:
    whole = table([(b"", header()), (b"v", F32), (b"w", entry(1, [4], 16, 16))])
    for position in range(len(whole)):
        for value in (0, 0xFF):
            changed = whole[:position] + bytes([value]) + whole[position + 1 :]
            try:
                file = TensorFlowCheckpoint(_write(tmp_path, changed))
            except CheckpointError:
                continue
            assert sum(info.nbytes for info in file.tensors.values()) <= 64


def test_missing_and_changed_data(tmp_path: Path) -> None:
    prefix = write_checkpoint(tmp_path / "m", ARRAYS)
    file, data = TensorFlowCheckpoint(prefix), tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="was changed while it was being read"):
        list(file.read(["a/W"]))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        TensorFlowCheckpoint(prefix)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"data file m\.data-00000-of-00001 is missing"):
        TensorFlowCheckpoint(prefix)


def test_text_is_left_out(tmp_path: Path) -> None:
    found = TensorFlowCheckpoint(
        _write(tmp_path, _index((b"_graph", entry(7, [], 0, 9)), (b"w", F32)))
    )
    assert list(found.tensors) == ["w"]


# ---- sidecars ------------------------------------------------------------------------------------


def test_sidecars_beside_and_above(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "hparams.json").write_text(json.dumps({"K": 3}))
    (folder / "config.json").write_text(json.dumps({"n": [1, {"x": None}]}))
    arguments = argparse.Namespace(a=1, b=-2.5, c=[True, None], d={"e": (1, "f")}, g=2**40)
    for protocol in (2, 3, 4, 5):
        (folder / "args.pickle").write_bytes(pickle.dumps(arguments, protocol))
        found = sidecars(folder / "model.pt")
        assert [s.name for s in found] == ["config.json", "args.pickle", "../hparams.json"]
        assert found[1].values == vars(arguments)
    assert [s.name for s in sidecars(folder)] == [s.name for s in found]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def _shared(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found] * 10
    return found


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_Bomb(), "refused"),
        ({"a": _Bomb()}, "refused"),
        (argparse.Namespace(a=np.zeros(2)), "refused"),
        (argparse.Namespace(a={1, 2}), "refused"),
        (argparse.Namespace(a=b"bytes"), "refused"),
        (argparse.Namespace(a={1: 2}), "it holds other things"),
        ([1, 2], "it holds other things"),
        ({"a": _shared(12)}, "it holds other things"),
        ({"a": _endless()}, "it holds other things"),
        (argparse.ArgumentParser, "it wants 'argparse'.'ArgumentParser'"),
    ],
)
def test_pickles_that_are_not_plain(
    content: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "args.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=reason):
        sidecars(tmp_path / "model.pt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of a terabyte
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # a memo of two billion places
        b"\x80\x04X\xff\xff\xff\xff.",  # text of 4 GB
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"N.",
    ],
)
def test_pickles_that_would_take_memory_or_run_code(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "args.pickle").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"args\.pickle: refused"):
        sidecars(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not JSON"), ("[1]", "expected a JSON object"), ("[" * 100_000, "not JSON"),
        (" " * (1 << 21), "more than 1048576 bytes")],
)  # fmt: skip
def test_damaged_sidecars(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "hparams.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        sidecars(tmp_path / "model.pt")
