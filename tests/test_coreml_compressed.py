"""A model that coremltools converted and compressed, in every kind of weights it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from coreml_conversion import HALF_ERROR, coremltools, relative_error, third_party_noise_off
from torch import nn

from flowship.runtime.engines.mil import Executable, Package

Floats = npt.NDArray[np.float32]


class SmallTransformer(nn.Module):
    """Attention by hand, several activations, shapes as Python numbers."""

    length, channels = 6, 32

    def __init__(self) -> None:
        super().__init__()
        c = self.channels
        self.norm = nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c, bias=False)
        self.up, self.gate, self.down = (
            nn.Linear(c, 4 * c),
            nn.Linear(c, 4 * c),
            nn.Linear(4 * c, c),
        )
        self.hidden = torch.ones(self.length, self.length).triu(1) > 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm(x)).reshape(1, self.length, 3, 2, self.channels // 2)
        q, k, v = (part.squeeze(2).transpose(1, 2) for part in qkv.split(1, 2))
        scores = q @ k.transpose(-1, -2) / 4.0
        scores = scores.masked_fill(self.hidden, -1e4)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, self.length, self.channels)
        x = x + self.proj(y)
        gelu = nn.functional.gelu(self.gate(x), approximate="tanh")
        x = x + self.down(gelu * torch.sigmoid(self.up(x)) + torch.tanh(self.up(x)))
        return torch.cat([x, x.mean(-1, keepdim=True), x.amax(-1, keepdim=True)], -1)


class OutsideModel:
    """A converted SmallTransformer, its input and what torch says."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        module = SmallTransformer().eval()
        self.x = torch.randn(1, module.length, module.channels)
        with third_party_noise_off(), torch.no_grad():
            self.expected: Floats = module(self.x).numpy()
            trace: Any = torch.jit.trace
            self.traced = trace(module, self.x)

    def convert(self, target: str, precision: str = "FLOAT32") -> Any:
        ct = coremltools()
        with third_party_noise_off():
            return ct.convert(
                self.traced,
                inputs=[ct.TensorType("x", self.x.shape, dtype=np.float32)],
                outputs=[ct.TensorType("y", dtype=np.float32)],
                minimum_deployment_target=ct.target[target],
                compute_precision=ct.precision[precision],
                skip_model_load=True,
            )

    def run(self, model: Any, path: Path) -> Floats:
        with third_party_noise_off():
            model.save(str(path))
        result: Floats = Executable(Package(path), "main").run({"x": self.x.numpy()})["y"]
        return result


@pytest.fixture(scope="module")
def outside() -> OutsideModel:
    return OutsideModel()


@pytest.mark.parametrize(
    ("target", "precision", "tolerance"),
    [("iOS15", "FLOAT32", 1e-6), ("iOS18", "FLOAT32", 1e-6), ("iOS18", "FLOAT16", HALF_ERROR)],
)
def test_outside_package(
    outside: OutsideModel, tmp_path: Path, target: str, precision: str, tolerance: float
) -> None:
    found = outside.run(outside.convert(target, precision), tmp_path / "outside.mlpackage")
    assert found.dtype == np.float32 and relative_error(found, outside.expected) < tolerance


def compressions() -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Name: deployment target, and the call of ct.optimize.coreml that compresses a model."""

    def apply(function: str, **options: Any) -> Callable[[Any], Any]:
        def run(model: Any) -> Any:
            cto = coremltools().optimize.coreml
            kind = {"linear": cto.OpLinearQuantizerConfig, "palette": cto.OpPalettizerConfig}
            kind["prune"] = cto.OpMagnitudePrunerConfig
            config = cto.OptimizationConfig(kind[function](weight_threshold=512, **options))
            compress = {"linear": cto.linear_quantize_weights, "palette": cto.palettize_weights}
            compress["prune"] = cto.prune_weights
            return compress[function](model, config=config)

        return run

    block = {"granularity": "per_block", "block_size": 16}
    group = {"granularity": "per_grouped_channel", "group_size": 8}
    return {
        "int8": ("iOS18", apply("linear")),
        "int4-blocks": ("iOS18", apply("linear", dtype="int4", **block)),
        "uint4-offset": ("iOS18", apply("linear", dtype="uint4", mode="linear", **block)),
        "int8-iOS16": ("iOS16", apply("linear", mode="linear")),
        "palette-1": ("iOS18", apply("palette", nbits=1)),
        "palette-2": ("iOS18", apply("palette", nbits=2, mode="uniform")),
        "palette-3": ("iOS18", apply("palette", nbits=3, mode="uniform")),
        "palette-6": ("iOS18", apply("palette", nbits=6, mode="uniform")),
        "palette-8": ("iOS18", apply("palette", nbits=8, mode="uniform")),
        "palette-4-groups": ("iOS18", apply("palette", nbits=4, **group)),
        "palette-4-iOS16": ("iOS16", apply("palette", nbits=4, mode="uniform")),
        "sparse": ("iOS18", apply("prune", target_sparsity=0.5)),
        "sparse-iOS16": ("iOS16", apply("prune", target_sparsity=0.5)),
    }


@pytest.fixture(scope="module")
def uncompressed(outside: OutsideModel) -> dict[str, Any]:
    return {target: outside.convert(target) for target in ("iOS16", "iOS18")}


@pytest.mark.parametrize("name", compressions())
def test_compressed_package(
    outside: OutsideModel, uncompressed: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Weights unpacked by coremltools itself give the same result as ours."""
    target, compress = compressions()[name]
    with third_party_noise_off():
        model = compress(uncompressed[target])
        plain = coremltools().optimize.coreml.decompress_weights(model)
    found = outside.run(model, tmp_path / "compressed.mlpackage")
    kinds = {o.kind for o in Package(tmp_path / "compressed.mlpackage").function("main").operations}
    assert any(kind.startswith("constexpr_") for kind in kinds)
    expected = outside.run(plain, tmp_path / "plain.mlpackage")
    assert relative_error(found, expected) < 1e-6
    error = relative_error(found, outside.expected)
    assert error < {"int8": 0.02, "palette-8": 0.02}.get(name, 2.0)
