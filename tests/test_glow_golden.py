"""GLOW's emitted graphs against what the five ports themselves compute (tests/golden/glow)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glow_checkpoints import open_glow
from glow_golden import GOLDEN, NAMES, Golden, golden_glow

from flowship.export.families.glow import GlowModel, reference_of

DECODE, LATENTS, BITS = 1e-5, 1e-4, 1e-5  # float32 noise of the ports is up to a tenth of it


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_glow(request.param)


def _eight_bit(x: npt.NDArray[Any], model: GlowModel) -> npt.NDArray[np.int64]:
    rules = model.config.pixels
    v = np.clip((x - rules.low) / (rules.high - rules.low), 0, 1)
    rule = rules.eight_bit
    grey = np.floor(v * rule.scale + rule.offset) * rule.step
    return np.clip(grey, 0, 255).astype(np.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_graphs_give_the_ports_arrays(
    golden: Golden, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, arrays = golden.graphs, golden.arrays
    monkeypatch.setattr(graphs, "dtype", dtype)
    for temperature, name in ((1.0, "t1"), (0.7, "t0.7")):
        x = graphs.decode([temperature * e for e in golden.latents()], golden.labels).numpy()
        assert abs(x - arrays[f"x_{name}"]).max() < DECODE
        if f"image_{name}" in arrays:
            off = abs(_eight_bit(x, golden.model) - arrays[f"image_{name}"])
            assert off.max() <= 1 and (off > 0).mean() < 1e-3
    eps, _ = graphs.encode(golden.data, golden.labels)
    for found, wanted in zip(eps, golden.latents("_enc"), strict=True):
        assert abs(found - wanted).max() < LATENTS
    back = graphs.decode(eps, golden.labels)
    assert abs(back - golden.data).max() < DECODE


def test_bits_per_dim_and_the_ports_own_number(golden: Golden) -> None:
    bits = golden.graphs.bits_per_dim(golden.data, golden.labels)
    assert abs(bits - golden.arrays["bits_per_dim"]).max() < BITS
    own = golden.model.config.own_number
    assert (own is not None) == (golden.model.config.port in ("chaiyujin", "normflows"))
    if own:
        number = own.factor * bits + own.offset
        wanted = golden.arrays[own.name]
        assert abs(number / wanted - 1).max() < 1e-5


def test_the_reference_is_the_port(golden: Golden) -> None:
    reference, arrays = reference_of(golden.model), golden.arrays
    x = reference.decode(golden.latents(), 0.7, golden.labels).numpy()
    assert abs(x - arrays["x_t0.7"]).max() < DECODE
    eps, _ = reference.encode(golden.data, golden.labels)
    for found, wanted in zip(eps, golden.latents("_enc"), strict=True):
        assert abs(found - wanted).max() < LATENTS
    bits = reference.bits_per_dim(golden.data, golden.labels).numpy()
    assert abs(bits - arrays["bits_per_dim"]).max() < BITS


def test_what_is_known_of_a_model() -> None:
    model = open_glow(GOLDEN / "y0ast_affine_lu_cond" / "glow_checkpoint_3.pt")
    config = model.config
    assert (config.port, config.num_classes, config.dataset) == ("y0ast", 10, "cifar10")
    assert config.latent_shapes == {
        "eps0": (6, 16, 16),
        "eps1": (12, 8, 8),
        "eps2": (48, 4, 4),
    }
    assert (config.height, config.width, config.num_values) == (32, 32, 3072)
    assert config.default_temperature == 0.7 and config.is_affine
