"""Checkpoints as trainers leave them: counters, several models, plain values, several parts."""

from __future__ import annotations

import argparse
import collections
import datetime
import fractions
import json
import os
import pathlib
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import UNCONDITIONAL, golden_model
from safetensors.torch import save_file
from tarflow_checkpoints import State, prefixed, refusal, same_weights, save

from flowship.export.checkpoint import Checkpoint
from flowship.export.sources import checkpoint_files
from flowship.export.sources.checkpoint_files import find_files
from flowship.export.sources.safetensors_file import SafetensorsFile
from flowship.runtime.errors import CheckpointError, UsageError

GOOD = golden_model(UNCONDITIONAL).checkpoint


def halved(state: State) -> State:
    return {name: value / 2 if "proj_out" in name else value for name, value in state.items()}


def is_good(path: Path, weights: str | None = None) -> bool:
    return same_weights(Checkpoint.open(path, weights=weights), Checkpoint.open(GOOD))


# ---- counters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_averaged_model(tmp_path: Path, state: State, suffix: str) -> None:
    counters = {
        "n_averaged": torch.tensor(7),
        "num_batches_tracked": torch.tensor([3], dtype=torch.int32),
        "anything_whole": torch.tensor(True),
        "decay": torch.tensor(0.999),
    }
    content = {**counters, **prefixed(state, "module.")}
    path = tmp_path / f"{GOOD.stem}{suffix}"
    if suffix == ".pth":
        torch.save({"ema": content}, path)
    else:
        save_file(content, path)
    assert is_good(path)


def test_what_only_looks_like_a_counter(tmp_path: Path, state: State) -> None:
    codes = {name: value.to(torch.int8) for name, value in state.items() if value.ndim == 2}
    assert "quantized checkpoints cannot be exported" in refusal(save(tmp_path, state | codes))
    vector = state | {"steps": torch.arange(3)}
    assert "steps has the type int64" in refusal(save(tmp_path, vector))
    scale = state | {"blocks.0.proj_in.scale": torch.tensor(0.5)}
    assert "not part of a TarFlow model" in refusal(save(tmp_path, scale))


# ---- one of several models -----------------------------------------------------------------------

SEVERAL: dict[str, tuple[Callable[[State], Any], str, str]] = {
    # contents with the good weights in one place; its name in full; shorter
    "beside": (lambda s: {"model": halved(s), "ema": s, "epoch": 3}, "ema", "ema"),
    "first": (lambda s: {"model": s, "model_ema": halved(s)}, "model", "model"),
    "word": (lambda s: {"model": halved(s), "model_ema": s}, "model_ema", "ema"),
    "within": (lambda s: {"model": halved(s), "ema": {"shadow": s}}, "ema.shadow", "ema"),
    "both within": (lambda s: {"model": {"model": halved(s), "ema": s}}, "model.ema", "ema"),
    "lightning": (
        lambda s: {"state_dict": prefixed(halved(s), "net.") | prefixed(s, "ema.")},
        "state_dict.ema",
        "ema",
    ),
    "wrapped": (lambda s: {"model": halved(s), "ema": prefixed(s, "module.")}, "ema", "ema"),
    "wrapper": (lambda s: {"module": s, "ema": halved(s)}, "module", "module"),
    "top": (lambda s: s | {"ema": halved(s)}, "model", "model"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_weights_by_name(tmp_path: Path, state: State, kind: str) -> None:
    make, full, short = SEVERAL[kind]
    path = save(tmp_path, make(state))
    message = refusal(path)
    assert "say which with --weights, one of" in message and full in message
    for name in (full, short):
        opened = Checkpoint.open(path, weights=name)
        assert same_weights(opened, Checkpoint.open(GOOD))
        assert opened.weights == full == opened.source.weights
        assert opened.source.file == f"{path.name}, weights {full}"


def test_weights_that_are_not_needed_or_not_there(tmp_path: Path, state: State) -> None:
    ema = save(tmp_path, {"ema": state, "epoch": 3}, "ema.pth")
    opened = Checkpoint.open(ema, weights="ema")
    assert (opened.weights, opened.source.file) == (None, "ema.pth")
    assert is_good(GOOD, "model")  # what a model without a name is called
    for path, wanted, words in (
        (ema, "model", "there are no weights 'model', it holds one model, called ema"),
        (GOOD, "ema", "there are no weights 'ema', it holds one model, called model"),
    ):
        with pytest.raises(UsageError, match=words):
            Checkpoint.open(path, weights=wanted)
    several = save(tmp_path, {"ema": {"a": state, "b": halved(state)}}, "s.pth")
    with pytest.raises(UsageError, match=r"--weights ema fits ema\.a, ema\.b"):
        Checkpoint.open(several, weights="ema")


# ---- plain values --------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "float": np.float64(3.2),
    "half": np.float16(3),
    "bool": np.bool_(True),
    "date64": np.datetime64("2026-01-01"),
    "array": np.arange(4),
    "structured": np.zeros(2, [("a", "f4")]),
    "dtype": np.dtype("float32"),
    "random state": np.random.RandomState(0).get_state(),
    "path": pathlib.Path("runs/1"),
    "windows path": pathlib.PureWindowsPath("C:/runs"),
    "counter": collections.Counter("abca"),
    "defaultdict": collections.defaultdict(list, loss=[1.0]),
    "deque": collections.deque([1, 2], maxlen=3),
    "namespace": argparse.Namespace(out=pathlib.PurePosixPath("x"), lr=np.float32(1)),
    "simple namespace": types.SimpleNamespace(a=1),
    "time": datetime.datetime.now(datetime.timezone.utc),
    "duration": datetime.timedelta(1),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "size": torch.Size([2]),
    "dtype of torch": torch.float16,
    "type": float,
    "frozenset": frozenset([1]),
    "slice": slice(1, 2),
    "range": range(3),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_values_beside_weights(tmp_path: Path, state: State, kind: str, zipped: bool) -> None:
    content = {"model": state, "extra": PLAIN[kind]}
    assert is_good(save(tmp_path, content, _use_new_zipfile_serialization=zipped))


def test_weights_in_a_dictionary_with_a_default(tmp_path: Path, state: State) -> None:
    assert is_good(save(tmp_path, collections.defaultdict(dict, model=state)))


class Calls:
    """Pickled as a call of anything with anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "call",
    [
        Calls(np.dtype, "V1000000000000"),
        Calls(np.dtype, "no such type"),
        Calls(np.ndarray, (1 << 40,)),
        Calls(pathlib.PurePosixPath, "a", "\0"),
        Calls(datetime.datetime, "never"),
        Calls(fractions.Fraction, 1, 0),
        Calls(range, 1 << 62),
        Calls(bytes, 1 << 60),
        Calls(collections.defaultdict, 5, {"a": 1}),
        Calls(list, range(1 << 60)),
    ],
    ids=lambda call: f"{call.function.__name__} {call.arguments}"[:30],
)
def test_nothing_is_called_for_a_plain_value(tmp_path: Path, state: State, call: Calls) -> None:
    """Arguments that the real thing would fail with, or reserve all memory for."""
    assert is_good(save(tmp_path, state | {"extra": call}))


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (np.load, "numpy.load"),
        (pathlib.Path.unlink, "getattr"),
        (collections.namedtuple, "collections.namedtuple"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_all_other_names_are_refused(
    tmp_path: Path, state: State, function: Any, named: str
) -> None:
    for extra in (
        Calls(function, "touch proof"),
        Calls(collections.defaultdict, function),
        argparse.Namespace(f=Calls(function, "touch proof")),
    ):
        message = refusal(save(tmp_path, state | {"extra": extra}))
        assert "wants to run code" in message and named in message
        assert "Weights alone are safe" in message
        assert f"torch.save(model.state_dict(), '{GOOD.stem}.pt')" in message


# ---- several files -------------------------------------------------------------------------------


def parts(folder: Path, state: State, suffix: str = ".safetensors") -> Path:
    """Two parts and their index in a folder, as save_pretrained() lays them; returns the index."""
    folder.mkdir()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = sorted(state)
    where: dict[str, str] = {}
    for number, own in enumerate((names[:9], names[9:]), 1):
        part = f"{stem}-{number:05d}-of-00002{suffix}"
        tensors = {name: state[name].contiguous() for name in own}
        save_file(tensors, folder / part) if suffix != ".bin" else torch.save(
            tensors, folder / part
        )
        where |= dict.fromkeys(own, part)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_parts_are_one_checkpoint(tmp_path: Path, state: State, suffix: str) -> None:
    index = parts(tmp_path / GOOD.stem, state, suffix)
    (index.parent / "config.json").write_text("{}")
    (index.parent / "training_args.bin").write_bytes(b"x")
    sources = set()
    for path in (index.parent, index, *index.parent.glob("*-of-*")):
        opened = Checkpoint.open(path)
        assert same_weights(opened, Checkpoint.open(GOOD))
        assert opened.config.noise.std == 0.1  # by the folder's name
        sources.add((opened.source.file, opened.source.sha256))
    assert [file for file, _ in sources] == [f"{GOOD.stem}/{index.name}"]


def test_parts_are_not_read_when_they_are_opened(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = parts(tmp_path / GOOD.stem, state)
    monkeypatch.setattr(SafetensorsFile, "read", None)
    assert Checkpoint.open(index).num_parameters


@pytest.mark.parametrize("name", ["model.safetensors", f"{GOOD.stem}.safetensors"])
def test_a_folder_of_one_file_is_that_file(tmp_path: Path, state: State, name: str) -> None:
    folder = tmp_path / (GOOD.stem if name.startswith("model") else "any")
    folder.mkdir()
    save_file(state, folder / name)
    (folder / "config.json").write_text("{}")
    torch.save({"step": 3}, folder / "optimizer.pt")
    assert is_good(folder) and is_good(folder / name)


def test_links_as_download_caches_lay_them(tmp_path: Path, state: State) -> None:
    index = parts(tmp_path / "blobs", state)
    snapshot = tmp_path / GOOD.stem
    snapshot.mkdir()
    for number, file in enumerate(sorted(index.parent.iterdir())):
        blob = file.rename(index.parent / f"{number:040x}")
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    assert is_good(snapshot)


def broken(index: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))
    return index


def _points(file: object) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["weight_map"].update(var=file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_points("../x.safetensors"), "is not the plain name"),
        (_points("/etc/passwd"), "is not the plain name"),
        (_points("sub/model.safetensors"), "is not the plain name"),
        (_points("..\\x.safetensors"), "is not the plain name"),
        (_points("C:x.safetensors"), "is not the plain name"),
        (_points("config.json"), "is not the plain name"),
        (_points(7), "is not the plain name"),
        (_points("model-00003-of-00003.safetensors"), "00003.safetensors is missing"),
        (_points("model-00001-of-00002.safetensors"), "they do not belong together"),
        (lambda c: c["weight_map"].pop("var"), "the index says nowhere"),
        (lambda c: c["weight_map"].update(more="model-00001-of-00002.safetensors"), "more is not"),
        (lambda c: c.update(weight_map=[]), "it has no weight_map"),
        (lambda c: c.clear(), "it has no weight_map"),
        (
            lambda c: c["weight_map"].update({f"{i}": f"{i}.safetensors" for i in range(1001)}),
            "more than 1000 parts",
        ),
    ],
)
def test_hostile_indexes(
    tmp_path: Path, state: State, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    index = parts(tmp_path / GOOD.stem, state)
    if "1000" not in message:
        for file in ("sub", "x.safetensors"):
            (index.parent.parent / file).mkdir()
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(broken(index, change))


def test_indexes_that_are_no_json(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = parts(tmp_path / GOOD.stem, state)
    index.write_text('{"weight_map": {"var": "a.bin", "var": "b.bin"}}')
    with pytest.raises(CheckpointError, match="without double keys"):
        find_files(index)
    index.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="damaged"):
        find_files(index)
    monkeypatch.setattr(checkpoint_files, "MAX_INDEX_BYTES", 10)
    with pytest.raises(CheckpointError, match="not an index"):
        find_files(index)


def test_folders_that_are_no_checkpoint(tmp_path: Path, state: State) -> None:
    index = parts(tmp_path / "parts", state)
    index.unlink()
    part = "model-00001-of-00002.safetensors"
    cases = {
        index.parent: "parts without their index",
        index.parent / part: "part 1 of 2 of a checkpoint: put all parts and their index "
        r"\(model.safetensors.index.json\)",
    }
    for name, files, words in (
        ("fsdp", [".metadata", "__0_0.distcp"], "dcp_to_torch"),
        ("deepspeed", ["zero_to_fp32.py", "latest"], "zero_to_fp32.py"),
        ("several", ["a.safetensors", "b.safetensors"], "several files .* name the one"),
        ("empty", [], "a folder without a .safetensors or .pth file"),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        cases[tmp_path / name] = words
    for path, words in cases.items():
        with pytest.raises(CheckpointError, match=words):
            Checkpoint.open(path)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("names are UTF-16 there")
    path = tmp_path / os.fsdecode(b"caf\xe9" + GOOD.name.encode())
    path.write_bytes(GOOD.read_bytes())
    assert is_good(path)
    assert Checkpoint.open(path).source.file == rf"caf\xe9{GOOD.name}"


def test_what_torch_saved_under_the_name_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x_model_2_64_2_1_0.10.safetensors"
    path.write_bytes(GOOD.read_bytes())
    assert is_good(path)
