"""GLOW's graphs as Core ML packages, executed by the interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coreml_conversion import third_party_noise_off
from glow_golden import Golden, golden_glow

from flowship.export.families.glow import emit_decode, emit_encode, weight_arrays
from flowship.export.targets.coreml.package import write_package
from flowship.export.targets.coreml.weights import to_half
from flowship.export.targets.coreml.writer import Writer
from flowship.runtime.engines.mil import Executable, Package

# Affine, additive with leaky slopes and classes, and a border that is a map.
NAMES = ("rosinality_affine_lu", "normflows_glowbase_exp", "openai_affine")


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_glow(request.param)


def test_golden_arrays_in_half_precision(golden: Golden, tmp_path: Path) -> None:
    """PSNR with the width of the data range as its peak; latents by their mean error."""
    config, rules = golden.model.config, golden.model.config.pixels
    stored = {name: to_half(name, array) for name, array in weight_arrays(golden.model)}
    lengths = {"N": len(golden.arrays["image"])}
    networks = (emit_decode(config), emit_encode(config))
    functions = {network.name: Writer(network, stored, lengths) for network in networks}
    with third_party_noise_off():
        write_package(tmp_path / "glow.mlpackage", functions)
    package = Package(tmp_path / "glow.mlpackage")
    x = Executable(package, "decode").run(golden.inputs(0.7))["x"]
    worst = np.square(x - golden.arrays["x_t0.7"]).mean(axis=(1, 2, 3)).max()
    assert 20 * np.log10(rules.high - rules.low) - 10 * np.log10(worst) > 50
    data = golden.data.numpy().astype(np.float32)
    found = Executable(package, "encode").run({"x": data, **golden.condition})
    for i, wanted in enumerate(golden.latents("_enc")):
        assert np.abs(found[f"eps{i}"] - wanted.numpy()).mean() < 0.05
    bits = golden.model.bits_per_dim(
        [found[name].astype(np.float64) for name in config.latent_shapes],
        found["logdet"].astype(np.float64),
    )
    np.testing.assert_allclose(bits, golden.arrays["bits_per_dim"], atol=0.02, rtol=0)
