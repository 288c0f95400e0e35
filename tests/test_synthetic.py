"""Synthetic checkpoints have the published sizes, behave like flows, and import without options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import TarFlowConfig, checkpoint_name, expected_shapes
from flowship.export.reference import reference_decode, reference_encode
from flowship.export.sources.safetensors_file import write_safetensors
from flowship.export.synthetic import PRESETS, main, write_checkpoint
from flowship.runtime.errors import UsageError
from flowship.runtime.spec import TrainingNoise

TINY = PRESETS["tarflow-tiny"].config


@pytest.mark.parametrize(
    ("name", "parameters", "buffers", "file_name"),
    [
        # Sizes of apple/ml-tarflow's own modules; its causal masks are T * T of the buffers.
        ("tarflow-afhq256", 463_481_856, 8_585_216, "afhq_model_8_768_8_8_0.07"),
        ("tarflow-imagenet64", 460_142_784, 8_400_896, "imagenet64_model_2_768_8_8_0.05"),
        ("tarflow-imagenet64-cond", 817_636_096, 536_576, "imagenet_model_4_1024_8_8_0.05"),
        ("tarflow-imagenet128", 823_927_552, 8_437_760, "imagenet_model_4_1024_8_8_0.15"),
    ],
)
def test_published_sizes(name: str, parameters: int, buffers: int, file_name: str) -> None:
    preset = PRESETS[name]
    config = preset.config
    assert checkpoint_name(preset.dataset, config) == file_name
    shapes = expected_shapes(config)
    elements = {n: int(np.prod(shape)) for n, shape in shapes.items()}
    assert sum(elements.values()) - elements["var"] == config.num_parameters == parameters
    assert elements["var"] + config.num_blocks * config.num_patches**2 == buffers


def test_names_begin_the_same() -> None:
    assert all(name.startswith("tarflow-") for name in PRESETS)


def test_it_is_a_safetensors_file(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "tiny", TINY)
    assert path == tmp_path / "tiny_model_4_128_3_2_0.07.safetensors"
    checkpoint = Checkpoint.open(path)
    assert checkpoint.config == TINY
    assert checkpoint.nbytes < path.stat().st_size < 1.02 * checkpoint.nbytes
    with safe_open(path, framework="pt") as file:  # the format's own reader
        names = file.keys()
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        qkv = file.get_tensor("blocks.2.attn_blocks.1.attention.qkv.weight")
    assert found == expected_shapes(TINY)
    network = checkpoint.block(2).network
    assert np.array_equal(network["attn_blocks.1.attention.qkv.weight"], qkv.numpy())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_seeds(tmp_path: Path) -> None:
    def contents(folder: str, seed: int) -> bytes:
        return write_checkpoint(tmp_path / folder, "x", TINY, seed=seed).read_bytes()

    first = contents("a", 0)
    assert contents("b", 0) == first
    assert contents("c", 1) != first
    assert contents("a", 1) == contents("c", 1)  # replaces the file that was there


def test_a_tensor_does_not_depend_on_the_others(tmp_path: Path) -> None:
    one = Checkpoint.open(write_checkpoint(tmp_path, "x", TINY)).block(0)
    shorter = replace(TINY, num_blocks=1, num_classes=0)
    two = Checkpoint.open(write_checkpoint(tmp_path, "x", shorter)).block(0)
    assert all(np.array_equal(one.network[name], two.network[name]) for name in one.network)
    assert len(np.unique([array.ravel()[5] for array in one.network.values()])) == len(one.network)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"img_size": 64, "patch_size": 4, "channels": 64, "num_blocks": 4, "num_classes": 0},
        {"nvp": False, "num_blocks": 8},
        {"in_channels": 1, "layers_per_block": 8, "num_blocks": 2, "expansion": 1},
    ],
    ids=str,
)
def test_it_behaves_like_a_trained_flow(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Decoding keeps the size of a picture, and encoding brings the latents back."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, "x", replace(TINY, **changes)))
    config, var = checkpoint.config, checkpoint.var()
    assert (var == 1).all() if config.nvp else 0.2 < var.std() < 0.5
    noise = np.random.default_rng(0).standard_normal((2, *var.shape)).astype(np.float32)
    z, labels = noise * np.sqrt(var), [None, 1 if config.num_classes else None]
    patches = reference_decode(checkpoint, z, labels)
    assert 0.8 < patches.std() < 2 and abs(patches).max() < 20
    assert abs(patches - z).max() > 0.3  # far from the identity
    again, logdet = reference_encode(checkpoint, patches, labels)
    assert abs(again - z).max() < 1e-5
    assert (abs(logdet) < 0.2).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 100}, "1 heads of 64 are not 100 channels"),
        ({"img_size": 15}, "img_size 15 in patches of 4"),
        ({"num_blocks": 10_000}, "number of stages is 10000"),
        ({"noise": TrainingNoise("unknown")}, "needs to say the training noise"),
    ],
)
def test_sizes_that_no_model_has(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config: TarFlowConfig = replace(TINY, **changes)
    with pytest.raises(UsageError, match=message):
        write_checkpoint(tmp_path / "new", "x", config)
    assert not (tmp_path / "new").exists()


def test_nothing_remains_of_a_failed_write(tmp_path: Path) -> None:
    def arrays() -> Iterator[tuple[str, Any]]:
        yield "a", np.zeros(3, np.float32)
        raise KeyboardInterrupt

    shapes = {"a": (3,), "b": (2, 2)}
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x.safetensors", shapes, arrays())
    with pytest.raises(ValueError, match=r"expected a \(3,\), got b \(2, 2\)"):
        write_safetensors(tmp_path / "x.safetensors", shapes, [("b", np.zeros((2, 2), np.float32))])
    with pytest.raises(ValueError, match="shorter"):
        write_safetensors(tmp_path / "x.safetensors", shapes, [("a", np.zeros(3, np.float32))])
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = ["--img-size", "8", "--in-channels", "1", "--patch-size", "2", "--channels", "64"]
    free += ["--blocks", "1", "--layers", "1", "--classes", "0", "--no-nvp", "--head-dim", "32"]
    free += ["--noise-std", "uniform", "--seed", "7"]
    assert main(["tarflow-tiny", "-o", str(tmp_path), *free]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "tiny_model_2_64_1_1_uniform.safetensors"
    config = Checkpoint.open(path).config
    assert (config.img_size, config.in_channels, config.num_classes) == (8, 1, 0)
    assert not config.nvp and config.noise.kind == "uniform"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarflow-huge"], "invalid choice: 'tarflow-huge'"),
        (["tarflow-tiny", "--patch-size", "0"], "0 is too small"),
        (["tarflow-tiny", "--seed", "-1"], "-1 is below 0"),
        (["tarflow-tiny", "--seed", "x"], "'x' is not a whole number"),
        (["tarflow-tiny", "--noise-std", "nan"], "nan is neither 'uniform' nor"),
        (["tarflow-tiny", "--channels", "65"], "1 heads of 64 are not 65 channels"),
    ],
)
def test_command_misuse(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_command_in_a_folder_that_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(["tarflow-tiny", "-o", str(tmp_path / "file")])
    assert caught.value.code == 2
    assert "file is a file: name a folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folders, even of root")
def test_command_in_a_place_that_takes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarflow-tiny", "-o", "/proc/x"]) == 1
    error = capsys.readouterr().err
    assert error == "python -m flowship.export.synthetic: /proc/x: No such file or directory\n"


def test_module_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "flowship.export.synthetic", "--help"]
    assert b"tarflow-afhq256" in subprocess.run(command, capture_output=True, check=True).stdout
