"""Checkpoints come in as they are saved, one block at a time."""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TRAINED
from safetensors.torch import load_file, save_file
from tarflow_checkpoints import COND, TINY, UNCOND, State, prefixed, same_weights, save

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import expected_shapes
from flowship.export.synthetic import PRESETS, write_checkpoint


@pytest.mark.parametrize("path", [COND, UNCOND, TRAINED], ids=lambda path: path.stem)
def test_shapes_are_those_of_a_real_checkpoint(path: Path) -> None:
    tensors: State = torch.load(path, weights_only=True)
    checkpoint = Checkpoint.open(path)
    found = {n: tuple(t.shape) for n, t in tensors.items() if not n.endswith("attn_mask")}
    assert expected_shapes(checkpoint.config) == found
    parameters = sum(t.numel() for n, t in tensors.items() if n != "var" and n in found)
    assert checkpoint.num_parameters == parameters
    assert checkpoint.nbytes == 4 * (parameters + tensors["var"].numel())
    assert checkpoint.file_bytes == path.stat().st_size


@pytest.mark.parametrize("path", [COND, UNCOND], ids=lambda path: path.stem)
def test_hyper_parameters_are_inferred(path: Path) -> None:
    said = json.loads(path.with_suffix(".json").read_text())
    config = Checkpoint.open(path).config
    arguments = said.get("args", said.get("config", said))
    for name, value in arguments.items():
        if hasattr(config, name):
            assert getattr(config, name) == value, name


def test_weights_are_the_files(state: State) -> None:
    checkpoint = Checkpoint.open(UNCOND)
    block = checkpoint.block(1)
    assert np.array_equal(checkpoint.var(), state["var"].numpy())
    assert np.array_equal(block.pos, state["blocks.1.pos_embed"].numpy()[::-1])  # flipped block
    assert set(block.network) == {
        name.removeprefix("blocks.1.")
        for name in state
        if name.startswith("blocks.1.") and not name.endswith(("pos_embed", "attn_mask"))
    }
    for name, array in block.network.items():
        assert np.array_equal(array, state[f"blocks.1.{name}"].numpy())
    assert block.module(checkpoint.config).config == checkpoint.config


def test_class_rows_end_with_their_mean() -> None:
    tensors: State = torch.load(COND, weights_only=True)
    rows = tensors["blocks.2.class_embed"][:, 0].numpy()
    classes = Checkpoint.open(COND).block(2).classes
    assert np.array_equal(classes[:-1], rows)
    np.testing.assert_allclose(classes[-1], rows.mean(0), atol=1e-7)


def test_source() -> None:
    source = Checkpoint.open(UNCOND, licence="MIT").source
    assert source.file == UNCOND.name and source.licence == "MIT"
    assert source.sha256 == sha256(UNCOND.read_bytes()).hexdigest()


def compiled_inside(state: State) -> State:
    return {re.sub(r"^(blocks\.\d\.)", r"\1_orig_mod.", name): t for name, t in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 7, "args": argparse.Namespace(lr=1e-4)},
    "state_dict": lambda s: {"state_dict": prefixed(s, "model."), "loss": [1.0, 0.5]},
    "ema": lambda s: {"ema": s, "optimizer": {"state": {0: {"exp_avg": s["var"]}}}},
    "nested": lambda s: {"a": {"b": {"c": s}}},
    "module": lambda s: prefixed(s, "module."),
    "_orig_mod": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "compiled blocks": compiled_inside,
    "parameters": lambda s: {n: torch.nn.Parameter(t) for n, t in s.items()},
    "transposed": lambda s: {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in s.items()},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrapped(tmp_path: Path, state: State, kind: str, zipped: bool) -> None:
    content = WRAPPINGS[kind](state)
    path = save(tmp_path, content, _use_new_zipfile_serialization=zipped)
    assert same_weights(Checkpoint.open(path), Checkpoint.open(UNCOND))


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(tmp_path: Path, state: State, prefix: str) -> None:
    path = tmp_path / f"{UNCOND.stem}.safetensors"
    save_file(prefixed(state, prefix), path, metadata={"by": "someone"})
    assert same_weights(Checkpoint.open(path), Checkpoint.open(UNCOND))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_float_type_becomes_float32(
    tmp_path: Path, state: State, dtype: torch.dtype, suffix: str
) -> None:
    path = tmp_path / f"{UNCOND.stem}{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(
        {name: tensor.to(dtype) for name, tensor in state.items()}, path
    )
    exact = dtype == torch.float64
    assert same_weights(Checkpoint.open(path), Checkpoint.open(UNCOND), exact=exact)


def test_one_odd_sized_half_tensor_leaves_the_others_readable(tmp_path: Path, state: State) -> None:
    """Offsets in a safetensors file need not be multiples of the item size."""
    state["blocks.0.attn_mask"] = torch.ones(3, dtype=torch.uint8)
    path = tmp_path / f"{UNCOND.stem}.safetensors"
    save_file(state, path)
    text = path.read_bytes()
    (length,) = struct.unpack("<Q", text[:8])
    header = json.loads(text[8 : 8 + length])
    data = text[8 + length :]
    order = sorted(header, key=lambda name: (not name.endswith("attn_mask"), name))
    start, parts = 0, []
    for name in order:
        a, b = header[name]["data_offsets"]
        parts.append(data[a:b])
        header[name]["data_offsets"] = [start, start + b - a]
        start += b - a
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts))
    assert same_weights(Checkpoint.open(path), Checkpoint.open(UNCOND))


def test_masks_may_be_anything(tmp_path: Path, state: State) -> None:
    state["blocks.0.attn_mask"] = torch.ones(5, 5, dtype=torch.bool)
    del state["blocks.1.attn_mask"]
    path = save(tmp_path, state)
    assert same_weights(Checkpoint.open(path), Checkpoint.open(UNCOND))


# ---- memory -------------------------------------------------------------------------------------

WALK = """
import resource, sys
from flowship.export.checkpoint import Checkpoint
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
checkpoint = Checkpoint.open(sys.argv[1])
before = peak()
checkpoint.check_finite()
print(peak() - before, checkpoint.nbytes / checkpoint.config.num_blocks)
"""


def walk_memory(path: Path) -> tuple[float, float]:
    """(bytes that walking through a checkpoint added to the peak, bytes of one block)."""
    run = subprocess.run([sys.executable, "-c", WALK, path], capture_output=True, check=True)
    added, block = map(float, run.stdout.split())
    return added, block


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_one_block_in_memory(tmp_path: Path, suffix: str) -> None:
    config = replace(TINY, channels=512, num_blocks=4)  # 4 blocks of 25 MB
    path = write_checkpoint(tmp_path, "x", config)
    if suffix == ".pth":
        torch.save(load_file(path), path.with_suffix(suffix))
    added, block = walk_memory(path.with_suffix(suffix))
    assert added < 1.5 * block


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_one_block_in_memory_at_full_size(tmp_path: Path) -> None:
    preset = PRESETS["tarflow-afhq256"]
    path = write_checkpoint(tmp_path, preset.dataset, preset.config)
    added, block = walk_memory(path)
    path.unlink()
    assert added < 1.1 * block
