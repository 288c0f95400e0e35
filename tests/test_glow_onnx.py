"""GLOW's graphs as ONNX Runtime runs them, against what the ports compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from glow_golden import NAMES, Golden, golden_glow

from flowship.export.families.glow import emit_decode, emit_encode, weight_arrays
from flowship.export.graph import Network
from flowship.export.targets.onnx.file import WeightsFile
from flowship.export.targets.onnx.writer import Writer
from flowship.runtime.engines.onnxruntime_import import import_onnxruntime

Floats = npt.NDArray[np.float32]


class OnnxGraphs:
    """Both graphs of a model in one folder, around one weights file."""

    def __init__(self, folder: Path, golden: Golden, *, half: bool = False) -> None:
        file = WeightsFile(folder / "weights.bin", "weights.bin")
        for name, array in weight_arrays(golden.model):
            file.add(name, array.astype(np.float16) if half else array)
        file.close()
        self._sessions = {}
        onnxruntime = import_onnxruntime("this test")
        for network in (emit_decode(golden.model.config), emit_encode(golden.model.config)):
            path = folder / f"{network.name}.onnx"
            model = Writer(network, file, {}, half=half).build(network.name)
            path.write_bytes(model.SerializeToString())
            onnx.checker.check_model(str(path), full_check=True)
            self._sessions[network.name] = (
                network,
                onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
            )

    def run(self, name: str, inputs: dict[str, Floats]) -> dict[str, Floats]:
        network, session = self._sessions[name]
        assert isinstance(network, Network)
        given = {n: np.ascontiguousarray(inputs[n], np.float32) for n in network.inputs}
        return dict(zip(network.outputs, session.run(list(network.outputs), given), strict=True))


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_glow(request.param)


def test_golden_arrays(golden: Golden, tmp_path: Path) -> None:
    graphs = OnnxGraphs(tmp_path, golden)
    for temperature in (1.0, 0.7):
        x = graphs.run("decode", golden.inputs(temperature))["x"]
        assert np.abs(x - golden.arrays[f"x_t{temperature:g}"]).max() < 1e-5
    found = graphs.run("encode", {"x": golden.data.numpy(), **golden.condition})
    latents = [found[f"eps{i}"] for i in range(len(golden.model.config.levels))]
    for eps, wanted in zip(latents, golden.latents("_enc"), strict=True):
        assert np.abs(eps - wanted.numpy()).max() < 1e-4
    doubles = [eps.astype(np.float64) for eps in latents]
    bits = golden.model.bits_per_dim(doubles, found["logdet"].astype(np.float64))
    np.testing.assert_allclose(bits, golden.arrays["bits_per_dim"], atol=1e-5, rtol=0)


def test_half_precision(golden: Golden, tmp_path: Path) -> None:
    """PSNR with the width of the data range as its peak."""
    rules = golden.model.config.pixels
    x = OnnxGraphs(tmp_path, golden, half=True).run("decode", golden.inputs(0.7))["x"]
    error = x - golden.arrays["x_t0.7"]
    worst = np.square(error).mean(axis=(1, 2, 3)).max()
    assert 20 * np.log10(rules.high - rules.low) - 10 * np.log10(worst) > 50
