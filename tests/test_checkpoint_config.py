"""What shapes, names and users say of a model: its configuration, and where they disagree."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from tarflow_checkpoints import TINY

from flowship.export.families.tarflow import (
    TarFlowConfig,
    checkpoint_name,
    expected_shapes,
    infer_config,
)
from flowship.export.options import ConfigOverrides
from flowship.runtime.errors import CheckpointError, UsageError
from flowship.runtime.spec import TrainingNoise


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
