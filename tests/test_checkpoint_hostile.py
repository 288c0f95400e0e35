"""Checkpoints that were made to harm: code, sizes that are lies, damage anywhere."""

from __future__ import annotations

import json
import pickle
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tarflow_checkpoints import QKV, UNCOND, State, refusal, same_weights, save, zip_of

from flowship.export.checkpoint import Checkpoint
from flowship.runtime.errors import CheckpointError


class RunsCode:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


class RunsShell(RunsCode):
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import pathlib; pathlib.Path({str(self.proof)!r}).touch()",)


@pytest.mark.parametrize("kind", [RunsCode, RunsShell])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_wants_to_run_code(
    tmp_path: Path, state: State, kind: type[RunsCode], zipped: bool
) -> None:
    proof = tmp_path / "it ran"
    content = state | {"extra": kind(proof)}
    path = save(tmp_path, content, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "refused, its pickle wants to run code" in message and "weights_only" not in message
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the payload works where it is let
    assert proof.exists()


def test_a_plain_pickle_is_never_loaded(tmp_path: Path) -> None:
    proof, path = tmp_path / "it ran", tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(RunsShell(proof)))
    assert "neither" in refusal(path) and not proof.exists()


def test_a_saved_module_is_code(tmp_path: Path) -> None:
    message = refusal(save(tmp_path, torch.nn.Linear(2, 2)))
    assert "run code ('torch.nn.modules.linear.Linear')" in message


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(zip_of(**{"x/data.pkl": b"", "x/constants.pkl": b""}))
    assert "a TorchScript program" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_terabytes_from_a_stride_of_zero(tmp_path: Path, state: State, zipped: bool) -> None:
    state[QKV] = torch.zeros(1).expand(1 << 20, 1 << 20)
    path = save(tmp_path, state, _use_new_zipfile_serialization=zipped)
    assert f"{QKV} claims 4398046511104 bytes, the file holds 4 for it" in refusal(path)


def test_one_storage_for_many_tensors(tmp_path: Path, state: State) -> None:
    big = torch.zeros(1 << 20)
    content = state | {f"blocks.0.x{i}": big for i in range(50)}
    assert "its tensors claim" in refusal(save(tmp_path, content))


def rewrite_zip(path: Path, change: Callable[[str, bytes], bytes], method: int = 0) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def test_storage_larger_than_the_file(tmp_path: Path, state: State) -> None:
    """As many pickled elements as before, but the records hold 4 bytes each."""
    path = save(tmp_path, state)
    rewrite_zip(path, lambda name, content: content[:4] if "/data/" in name else content)
    assert re.search("truncated or damaged|claims?", refusal(path))


def test_storage_larger_than_the_memory(tmp_path: Path) -> None:
    """The count of elements in the pickle becomes 2^31 - 1 for a storage of 300 values."""
    for zipped in (True, False):
        path = save(tmp_path, {"var": torch.zeros(300)}, _use_new_zipfile_serialization=zipped)
        old, new = b"M\x2c\x01", b"J\xff\xff\xff\x7f"

        def grow(name: str, content: bytes, old: bytes = old, new: bytes = new) -> bytes:
            return content.replace(old, new) if name.endswith("data.pkl") else content

        if zipped:
            rewrite_zip(path, grow)
        else:
            path.write_bytes(path.read_bytes().replace(old, new))
        assert re.search("truncated or damaged", refusal(path))


def test_compressed_records(tmp_path: Path, state: State) -> None:
    path = save(tmp_path, state)
    rewrite_zip(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert "its records are compressed" in refusal(path)


def test_dictionaries_that_contain_themselves(tmp_path: Path, state: State) -> None:
    loop: dict[str, Any] = {"model": state}
    loop["loop"] = loop
    assert same_weights(Checkpoint.open(save(tmp_path, loop)), Checkpoint.open(UNCOND))
    laughs: dict[str, Any] = {"x": 1}
    for _ in range(64):
        laughs = {"a": laughs, "b": laughs}
    assert "no named tensors" in refusal(save(tmp_path, laughs))


@pytest.mark.parametrize("name", ["var\x1b[2J", "x" * 300], ids=["escape", "long"])
def test_names_for_a_terminal(tmp_path: Path, state: State, name: str) -> None:
    state[name] = torch.zeros(2)
    message = refusal(save(tmp_path, state))
    assert "a tensor name of" in message and message.isprintable()


def header_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{" * 100_000, "its header is not JSON"),
        (b'{"a": 1, "a": 2}', "its header is not JSON"),
        (b"\xff\xfe{}", "its header is not JSON"),
        (b'{"a": ' + b"9" * 9999 + b"}", "its header is not JSON"),
        ([1, 2], "is not a JSON object"),
        ({"a": 7}, "dtype, shape and data_offsets are expected"),
        ({"a": entry(dtype="F4")}, "the type 'F4' is none of F64, F32"),
        ({"a": entry(dtype=[1])}, "the type [1] is none of"),
        ({"a": entry(shape=[-2])}, "must be lists of whole numbers"),
        ({"a": entry(shape=[True, 2])}, "must be lists of whole numbers"),
        ({"a": entry(shape=[1 << 60])}, "must be lists of whole numbers"),
        ({"a": entry(offsets=[0, 8, 9])}, "must be lists of whole numbers"),
        ({"a": entry(shape=[1 << 40, 1 << 40])}, "data_offsets say 8"),
        ({"a": entry(offsets=[8, 0])}, "data_offsets say -8"),
        ({"a": entry(offsets=[4, 12])}, "a begins at byte 4 of the data, expected 0"),
        ({"a": entry(), "b": entry()}, "b begins at byte 0 of the data, expected 8"),
        ({"a": entry([4], [0, 16])}, "truncated, its tensors need 16 bytes and it has 8"),
        ({"a": entry([1], [0, 4])}, "too long, its tensors need 4 bytes and it has 8"),
        ({"a\n": entry()}, "a tensor name of"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "header",
)
def test_hostile_safetensors_headers(tmp_path: Path, header: Any, message: str) -> None:
    path = header_file(tmp_path / "x.safetensors", header, bytes(8))
    assert message in refusal(path)


@pytest.mark.parametrize("length", [1 << 10, 1 << 40, (1 << 64) - 1])
def test_safetensors_header_larger_than_the_file(tmp_path: Path, length: int) -> None:
    path = header_file(tmp_path / "x.safetensors", {}, length=length)
    assert f"its header would have {length} bytes and the file has 10" in refusal(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path, state: State, kind: str) -> None:
    """Flipped bytes end in a CheckpointError or in other weights, in nothing else."""
    small = {name: t for name, t in state.items() if not name.endswith("attn_mask")}
    path = tmp_path / "x.pth"
    if kind == "safetensors":
        save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=kind == "zip")
    original, stream = path.read_bytes(), random.Random(kind)
    # Most of the file is weights; its structure is at both ends.
    places = [*range(4000), *range(len(original) - 4000, len(original))]
    refused = 0
    for _ in range(150):
        damaged = bytearray(original)
        for place in stream.sample(places, 3):
            damaged[place] = stream.randrange(256)
        path.write_bytes(damaged)
        try:
            Checkpoint.open(path).check_finite()
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 15
