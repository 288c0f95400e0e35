"""Checkpoints come in as they are saved; everything else is refused with one clear line."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import (
    TarFlowConfig,
    checkpoint_name,
    expected_shapes,
    infer_config,
)
from flowship.export.options import ConfigOverrides
from flowship.export.synthetic import PRESETS, write_checkpoint
from flowship.runtime.errors import CheckpointError, UsageError
from flowship.runtime.spec import TrainingNoise

State = dict[str, Tensor]

GOLDEN = Path(__file__).parent / "golden"
DEMO = Path(__file__).parents[1] / "apps/demo/fmnist_model_4_128_4_4_0.10.pth"
COND = GOLDEN / "tiny_cond_model_4_128_3_2_0.05.pth"
UNCOND = GOLDEN / "tiny_uncond_model_2_64_2_1_0.10.pth"
QKV = "blocks.1.attn_blocks.0.attention.qkv.weight"


@pytest.fixture
def state() -> State:
    """The unconditional golden model: 2 blocks, 1 layer, 3 channels in patches of 2."""
    result: State = torch.load(UNCOND, weights_only=True)
    return result


def save(folder: Path, content: Any, name: str = UNCOND.name, **options: Any) -> Path:
    path = folder / name
    torch.save(content, path, **options)
    return path


def refusal(path: Path, **overrides: Any) -> str:
    """The message with which a checkpoint is refused, at the latest when its weights are read."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path, ConfigOverrides(**overrides)).check_finite()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 320 and path.name in message
    return message


def same_weights(a: Checkpoint, b: Checkpoint, exact: bool = True) -> bool:
    for block in range(a.config.num_blocks):
        one, two = a.block(block), b.block(block)
        pairs = [(one.network[name], two.network[name]) for name in one.network]
        pairs += [(one.pos, two.pos), (one.classes, two.classes), (a.var(), b.var())]
        for x, y in pairs:
            assert x.dtype == y.dtype == np.float32
            if not (np.array_equal(x, y) if exact else np.allclose(x, y, rtol=1e-2, atol=1e-6)):
                return False
    return True


# ---- what comes in ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [COND, UNCOND, DEMO], ids=lambda path: path.stem)
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


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


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


# ---- what the name and the user say -------------------------------------------------------------

TINY = PRESETS["tarflow-tiny"].config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_channels": 1, "num_classes": 0},
        {"in_channels": 4, "patch_size": 2, "img_size": 8},
        {"nvp": False, "num_blocks": 1, "noise": TrainingNoise("uniform")},
        {"expansion": 2, "channels": 64, "layers_per_block": 3, "patch_size": 16},
    ],
    ids=str,
)
def test_config_comes_back_from_shapes_and_name(changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    name = checkpoint_name("some_model_data", config)
    for suffix in ("", ".pth", ".safetensors", ".pth.safetensors"):
        assert infer_config(expected_shapes(config), name + suffix, ConfigOverrides()) == config


def infer(config: TarFlowConfig, name: str = "weights.pth", **overrides: Any) -> TarFlowConfig:
    return infer_config(expected_shapes(config), name, ConfigOverrides(**overrides))


def test_colour_needs_no_name_and_grey_asks() -> None:
    assert infer(TINY).in_channels == 3
    assert infer(TINY).noise.kind == "unknown"
    grey = replace(TINY, in_channels=1)
    with pytest.raises(
        CheckpointError, match=r"1 channel in patches of 4 or 4 channels in pa.*--in"
    ):
        infer(grey)
    assert infer(grey, in_channels=1) == replace(grey, noise=TrainingNoise("unknown"))
    assert infer(grey, in_channels=4).patch_size == 2
    with pytest.raises(CheckpointError, match=r"16 values .* with 3 channels: .*--in-channels"):
        infer(grey, in_channels=3)
    with pytest.raises(CheckpointError, match="with 1, 3 or 4 channels"):
        infer(replace(TINY, in_channels=5))
    assert infer(replace(TINY, in_channels=5), in_channels=5).in_channels == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a_model_2_128_3_2_0.05.pth",
            "patch_size 2, but 48 values in a patch are 3 channels in pa",
        ),
        ("a_model_4_256_3_2_0.05.pth", "channels 256, the weights say 128"),
        ("a_model_4_128_4_2_0.05.pth", "num_blocks 4, the weights say 3"),
        ("a_model_4_128_3_1_0.05.pth", "layers_per_block 1, the weights say 2"),
        ("a_model_4_128_3_2_10.0.pth", "training noise of 10.0"),
        ("a_model_0_128_3_2_0.05.pth", "patch_size 0"),
    ],
)
def test_a_name_that_contradicts_the_weights(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        infer(TINY, name)


def test_head_dim() -> None:
    assert infer(TINY, head_dim=32).num_heads == 4
    with pytest.raises(CheckpointError, match="128 channels are not a multiple of head_dim 48"):
        infer(TINY, head_dim=48)
    with pytest.raises(CheckpointError, match=r"not a multiple of head_dim 64: .*--head-dim"):
        infer(replace(TINY, channels=96, head_dim=32))


def test_noise() -> None:
    def noise(text: str, **said: Any) -> TrainingNoise:
        return infer(TINY, f"a_model_4_128_3_2_{text}.pth", **said).noise

    assert noise("0.07") == TrainingNoise("gaussian", 0.07)
    assert noise("0.07", noise_std=0.073) == TrainingNoise("gaussian", 0.073)
    assert noise("uniform") == noise("0.07", noise_std="uniform") == TrainingNoise("uniform")
    assert noise("0.00") == TrainingNoise("unknown")  # rounded to two digits


def test_class_names() -> None:
    assert infer(TINY, "afhq_model_4_128_3_2_0.07").class_names == ("cat", "dog", "wild")
    assert infer(replace(TINY, num_classes=4), "afhq_model_4_128_3_2_0.07").class_names == ()
    assert infer(TINY, label_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(CheckpointError, match="2 label names for 3 classes"):
        infer(TINY, label_names=["a", "b"])


@pytest.mark.parametrize(
    "overrides",
    [
        {"in_channels": 0},
        {"head_dim": -64},
        {"noise_std": 0.0},
        {"noise_std": float("nan")},
        {"noise_std": "gauss"},
        {"label_names": ["cat", "dog", "cat"]},
    ],
    ids=str,
)
def test_overrides_that_no_model_has(overrides: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ConfigOverrides(**overrides)


# ---- what is no checkpoint ----------------------------------------------------------------------


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is an empty file"),
        (random.Random(0).randbytes(5000), "neither a file of torch.save"),
        (b"lorem ipsum dolor sit amet " * 9, "it begins with 'lorem ip'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "this is a PNG picture"),
        (pickle.dumps({"var": 1}), r"it begins with '\x80"),
        (b"x", "neither"),
        (zip_of(a=b"b"), "this is a zip of something else"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged, the directory at its end is missing"),
    ],
    ids=["empty", "random", "text", "picture", "pickle", "one byte", "zip", "broken zip"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    found = refusal(path)
    assert message in found or (suffix == ".safetensors" and "not a safetensors file" in found)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert "nothing.pth does not exist" in refusal(tmp_path / "nothing.pth")
    (tmp_path / "sharded.pth").mkdir()
    assert "a folder without a .safetensors or .pth file" in refusal(tmp_path / "sharded.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated_pth(tmp_path: Path, state: State, share: float, legacy: bool) -> None:
    path = save(tmp_path, state, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize("share", [0.00001, 0.001, 0.3, 0.999])
def test_truncated_safetensors(tmp_path: Path, state: State, share: float) -> None:
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert re.search("truncated|is empty", refusal(path))


OTHER_FLOWS = {
    "STARFlow": ["var", "blocks.0.sos_embed", "blocks.0.proj_out.weight"],
    "GLOW": ["module.blocks.0.flows.0.invconv.w_p", "module.blocks.0.flows.0.actnorm.loc"],
    "MaCow": ["flow.blocks.0.steps.0.weight"],
    "DenseFlow": ["transforms.3.blocks.0.weight"],
    "not a checkpoint of a supported family (tarflow), it holds conv1.weight": ["conv1.weight"],
    "it holds no named tensors": [],
}


@pytest.mark.parametrize("expected", OTHER_FLOWS, ids=lambda text: text[:12])
def test_other_networks(tmp_path: Path, state: State, expected: str) -> None:
    content = {name: torch.zeros(2, 2) for name in OTHER_FLOWS[expected]}
    if expected == "STARFlow":
        content |= {name: t for name, t in state.items() if not name.endswith("pos_embed")}
    assert expected in refusal(save(tmp_path, content))


def test_no_dictionary(tmp_path: Path) -> None:
    assert "no named tensors" in refusal(save(tmp_path, torch.zeros(3)))
    assert "no named tensors" in refusal(save(tmp_path, [torch.zeros(3)]))


def test_two_models(tmp_path: Path, state: State) -> None:
    message = refusal(save(tmp_path, {"model": state, "ema": dict(state)}))
    assert "several models in one file: say which with --weights, one of model, ema" in message
    twice = {"var": state["var"], "module.var": state["var"]}
    assert "two tensors for var" in refusal(save(tmp_path, state | twice))


# ---- wrong contents -----------------------------------------------------------------------------


def test_every_missing_tensor_is_named(state: State) -> None:
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    for name in shapes:
        if name.endswith("attn_mask"):
            continue
        rest = {n: shape for n, shape in shapes.items() if n != name}
        with pytest.raises(CheckpointError, match=re.escape(f"the tensor {name} is missing")):
            infer_config(rest, "x.pth", ConfigOverrides())


def test_missing_tensor_in_a_file(tmp_path: Path, state: State) -> None:
    for name in ("var", "blocks.0.pos_embed", QKV):
        rest = {n: t for n, t in state.items() if n != name}
        assert f"the tensor {name} is missing" in refusal(save(tmp_path, rest))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (QKV, (64, 192), f"{QKV} has the shape (64, 192), expected (192, 64)"),
        ("blocks.1.pos_embed", (17, 64), "has the shape (17, 64), expected"),
        ("var", (16,), "var has the shape (16,), expected 2 dimensions"),
        ("var", (15, 12), "15 patches are not a square"),
        ("var", (0, 12), "none of them 0"),
        ("blocks.0.proj_out.weight", (13, 64), "proj_out has 13 rows, expected 24 (or 12 without"),
        ("blocks.0.attn_blocks.0.mlp.main.0.weight", (100, 64), "the MLP is 100 wide"),
        ("blocks.0.extra", (1,), "the tensor blocks.0.extra is not part of a TarFlow model"),
        ("head.weight", (1,), "the tensor head.weight is not part of a TarFlow model"),
        ("blocks.1.class_embed", (3, 1, 64), "the tensor blocks.0.class_embed is missing"),
        ("blocks.3.proj_in.bias", (64,), "blocks.2 is missing, but blocks.3 is there"),
        ("blocks.999999999.proj_in.bias", (64,), "blocks.2 is missing, but blocks.999999999"),
        ("blocks.0.attn_blocks.7.mlp.norm.bias", (64,), "attn_blocks.1 is missing, but blocks.0"),
        (f"blocks.{'9' * 100}.proj_in.bias", (64,), "is not part of a TarFlow model"),
    ],
)
def test_wrong_tensors(
    tmp_path: Path, state: State, name: str, shape: tuple[int, ...], message: str
) -> None:
    state[name] = torch.zeros(shape)
    assert message in refusal(save(tmp_path, state, "x.pth"))


def test_sizes_beyond_every_model_allocate_nothing() -> None:
    """As shapes alone: 2^30 channels would be 2^62 values."""
    shapes = expected_shapes(TINY) | {
        "var": (1 << 40, 48),
        "blocks.0.pos_embed": (1 << 40, 1 << 30),
    }
    shapes["blocks.0.attn_blocks.0.mlp.main.0.weight"] = (1 << 32, 1 << 30)
    with pytest.raises(CheckpointError, match="channels is 1073741824, expected 1 to 32768"):
        infer_config(shapes, "x.pth", ConfigOverrides())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_no_numbers(
    tmp_path: Path, state: State, value: float, suffix: str
) -> None:
    state[QKV] = state[QKV].to(torch.float64)
    state[QKV][3, 5] = value
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    checkpoint = Checkpoint.open(path)
    checkpoint.block(0)
    with pytest.raises(CheckpointError, match=re.escape(f"1 of 12288 values of {QKV} are NaN")):
        checkpoint.block(1)
    assert QKV in refusal(path)


def test_variances_are_positive(tmp_path: Path, state: State) -> None:
    state["var"][0, 0] = -0.5
    assert "var holds -0.5" in refusal(save(tmp_path, state))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_integer_weights(tmp_path: Path, state: State, suffix: str) -> None:
    state[QKV] = state[QKV].to(torch.int8)
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert f"{QKV} has the type int8, expected float32" in refusal(path)


def test_tensors_without_values(tmp_path: Path, state: State) -> None:
    state[QKV] = torch.eye(192, 64).to_sparse()
    assert "is not a plain tensor with values" in refusal(save(tmp_path, state))
    state[QKV] = torch.empty(192, 64, device="meta")
    assert "is not a plain tensor with values" in refusal(save(tmp_path, state))


def test_file_that_changes_after_opening(tmp_path: Path, state: State) -> None:
    for path in (save(tmp_path, state, "x.pth"), tmp_path / "x.safetensors"):
        if path.suffix == ".safetensors":
            save_file(state, path)
        checkpoint = Checkpoint.open(path)
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(CheckpointError, match="was changed while it was being read"):
            checkpoint.block(0)


# ---- hostile files ------------------------------------------------------------------------------


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
