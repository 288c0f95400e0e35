"""Files that are no checkpoint, or one of something else: each refused with one clear line."""

from __future__ import annotations

import pickle
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tarflow_checkpoints import QKV, TINY, State, refusal, save, zip_of

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import expected_shapes, infer_config
from flowship.export.options import ConfigOverrides
from flowship.runtime.errors import CheckpointError

# ---- what is no checkpoint ----------------------------------------------------------------------


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
