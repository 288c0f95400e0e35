"""GLOW's graphs lowered to XNNPACK and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from coreml_conversion import third_party_noise_off
from glow_golden import golden_glow

from flowship.export.families.glow import emit_decode, emit_encode, weight_arrays
from flowship.export.graph import Network
from flowship.export.targets.executorch.lowering import Method, lower_methods
from flowship.export.targets.executorch.modules import ParallelModule, Store


def _example(network: Network, count: int) -> tuple[torch.Tensor, ...]:
    shapes = [[count, *map(int, value.shape[1:])] for value in network.inputs.values()]
    return tuple(torch.zeros(shape) for shape in shapes)


def test_golden_arrays(tmp_path: Path) -> None:
    """An affine model with classes and a learned top, both graphs in one program."""
    golden = golden_glow("y0ast_affine_lu_cond")
    config, count = golden.model.config, len(golden.arrays["image"])
    store = Store({name: torch.from_numpy(array) for name, array in weight_arrays(golden.model)})
    networks = {network.name: network for network in (emit_decode(config), emit_encode(config))}
    methods = {
        name: Method(ParallelModule(network, store), _example(network, count))
        for name, network in networks.items()
    }
    lower_methods(methods, tmp_path / "glow.pte")
    with third_party_noise_off():  # its API is called experimental
        from executorch.runtime import Runtime

    program = Runtime.get().load_program(tmp_path / "glow.pte")
    given = golden.inputs(0.7)
    x = program.load_method("decode").execute([torch.from_numpy(a) for a in given.values()])[0]
    assert np.abs(x.numpy() - golden.arrays["x_t0.7"]).max() < 1e-5
    condition = [torch.from_numpy(a) for a in golden.condition.values()]
    found = program.load_method("encode").execute([golden.data.float(), *condition])
    named = {
        name: v.double().numpy() for name, v in zip(networks["encode"].outputs, found, strict=True)
    }
    latents = [named[name] for name in config.latent_shapes]
    for eps, wanted in zip(latents, golden.latents("_enc"), strict=True):
        assert np.abs(eps - wanted.numpy()).max() < 1e-4
    bits = golden.model.bits_per_dim(latents, named["logdet"])
    np.testing.assert_allclose(bits, golden.arrays["bits_per_dim"], atol=1e-5, rtol=0)
