"""Sizes and kinds that no golden file has: exported, and compared with the float32 torch model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Exporter

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import TarFlowConfig
from flowship.export.options import ConfigOverrides
from flowship.export.reference import reference_decode, reference_encode
from flowship.export.synthetic import write_checkpoint
from flowship.runtime import Flow, UsageError
from flowship.runtime.flow import draw_noise
from flowship.runtime.images import patchify
from flowship.runtime.spec import TrainingNoise

NOISE = TrainingNoise("gaussian", 0.07)
CONFIGS = {
    "three by three patches, wide": TarFlowConfig(1, 9, 3, 192, 2, 3, 0, True, 64, 4, NOISE),
    "four channels, one block": TarFlowConfig(4, 8, 2, 64, 1, 1, 7, True, 64, 4, NOISE),
    "many classes, deep": TarFlowConfig(3, 12, 3, 64, 5, 1, 100, True, 64, 4, NOISE),
    "volume preserving": TarFlowConfig(3, 4, 2, 64, 2, 2, 2, False, 64, 4, NOISE),
    "narrow heads": TarFlowConfig(1, 8, 2, 64, 2, 1, 2, True, 32, 4, NOISE),
    "one patch": TarFlowConfig(1, 4, 4, 64, 2, 1, 0, True, 64, 4, NOISE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_export_is_the_trained_model(name: str, tmp_path: Path, exported: Exporter) -> None:
    config = CONFIGS[name]
    path = write_checkpoint(tmp_path, name.replace(" ", "-").replace(",", ""), config)
    overrides = ConfigOverrides(in_channels=config.in_channels, head_dim=config.head_dim)
    checkpoint = Checkpoint.open(path, overrides)
    assert checkpoint.config == config
    with Flow.open(exported(path, overrides=overrides)) as flow:
        labels = [1, 0] if config.num_classes else [None, None]
        noise = draw_noise([3, 4], flow.spec)
        images = flow.decode(noise, label=labels)
        z = noise * np.sqrt(checkpoint.var())
        wanted = reference_decode(checkpoint, z, labels)
        np.testing.assert_allclose(patchify(images, flow.spec.image), wanted, atol=1e-4)
        latents, logdet = flow.encode(images, label=labels)
        np.testing.assert_allclose(latents, z, atol=1e-4)
        _, wanted_logdet = reference_encode(checkpoint, wanted, labels)
        np.testing.assert_allclose(logdet, wanted_logdet, atol=1e-5)
        assert np.isfinite(flow.denoise(images, label=labels)).all()
        if config.in_channels == 4:
            with pytest.raises(UsageError, match=r"write a \.npy"):
                flow.generate(seed=1).save(tmp_path / "x.png")
