"""Packages that flowship did not make: the interpreter against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_conversion import (
    HALF_ERROR,
    Array,
    convert,
    coremltools,
    run,
    save,
    third_party_noise_off,
    trace,
    worst_error,
)
from coreml_foreign_models import Cached, foreign_models
from torch import nn

from flowship.runtime.engines.mil import OPS, Executable, Package
from flowship.runtime.errors import EngineError

# Sums of some tens of float32 values in another order, and transcendental functions.
FLOAT_ERROR = 3e-6
# Where a model compares, floors or sorts, float16 gives another answer, not a near one.
NOT_CONTINUOUS = ("elementwise", "reductions")
OLDEST = {"resizing": "iOS16"}  # pixel_unshuffle came with it


def conversions() -> list[tuple[str, str, str]]:
    """(model, deployment target, compute precision): the oldest and the newest target of each."""
    cases = [("activations", target, "FLOAT32") for target in ("iOS16", "iOS17")]
    for name in foreign_models():
        newest = "FLOAT32" if name in NOT_CONTINUOUS else "FLOAT16"
        cases += [(name, OLDEST.get(name, "iOS15"), "FLOAT32"), (name, "iOS18", newest)]
    return cases


@pytest.mark.parametrize(("name", "target", "precision"), conversions())
def test_model(tmp_path: Path, name: str, target: str, precision: str) -> None:
    module, x = foreign_models()[name]
    traced, expected = trace(module, x)
    found = run(save(convert(traced, x, target, precision), tmp_path / "m.mlpackage"), x)
    limit = HALF_ERROR if precision == "FLOAT16" else FLOAT_ERROR
    assert worst_error(found, expected) < limit
    assert any(np.ptp(e) > 0.1 for e in expected)  # there was something to compare


# ---- compressed weights --------------------------------------------------------------------------


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(torch.relu(self.up(x)))
        return result


@pytest.mark.parametrize(
    ("function", "options", "target", "error"),
    [
        ("linear", {}, "iOS16", 0.01),
        ("linear", {"dtype": "int8"}, "iOS18", 0.01),
        ("linear", {"dtype": "int4", "granularity": "per_block", "block_size": 16}, "iOS18", 0.15),
        ("palette", {"nbits": 8, "mode": "uniform"}, "iOS16", 0.02),
        ("palette", {"nbits": 4, "mode": "uniform"}, "iOS18", 0.3),
    ],
)
def test_compressed_linear(
    tmp_path: Path, function: str, options: dict[str, Any], target: str, error: float
) -> None:
    """Against torch, so that not only the codes are read right: the error is that of the bits."""
    torch.manual_seed(1)
    module, x = TwoLayers(), torch.randn(4, 32)
    traced, expected = trace(module, x)
    cto = coremltools().optimize.coreml
    kind = cto.OpLinearQuantizerConfig if function == "linear" else cto.OpPalettizerConfig
    config = cto.OptimizationConfig(kind(weight_threshold=512, **options))
    model = convert(traced, x, target, "FLOAT16")
    with third_party_noise_off():
        compress = cto.linear_quantize_weights if function == "linear" else cto.palettize_weights
        package = save(compress(model, config=config), tmp_path / "m.mlpackage")
    kinds = {operation.kind for operation in package.function("main").operations}
    assert any(kind.startswith("constexpr_") for kind in kinds)
    found = worst_error(run(package, x), expected)
    assert error / 20 < found < error  # below, the weights would not be compressed


# ---- states and functions ------------------------------------------------------------------------


def convert_cached(module: Cached) -> Any:
    """A package whose states are the module's buffers."""
    ct = coremltools()
    x, write = torch.zeros(1, 1, Cached.channels), torch.zeros(1, Cached.length, 1)
    jit: Any = torch.jit
    shape = (1, Cached.length, Cached.channels)
    states = [
        ct.StateType(wrapped_type=ct.TensorType(shape=shape, dtype=np.float16), name=name)
        for name in ("keys", "values")
    ]
    with third_party_noise_off(), torch.no_grad():
        return ct.convert(
            jit.trace(module.eval(), (x, write)),
            inputs=[
                ct.TensorType("x", x.shape, dtype=np.float32),
                ct.TensorType("write", write.shape, dtype=np.float32),
            ],
            outputs=[ct.TensorType("y", dtype=np.float32)],
            states=states,
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )


def steps(count: int) -> list[tuple[Array, Array]]:
    """(x, write) of rows one after the other."""
    rows = np.random.default_rng(0).standard_normal((count, 1, 1, Cached.channels), np.float32)
    places = np.eye(count, Cached.length, dtype=np.float32)[:, None, :, None]
    return list(zip(rows, places, strict=True))


def test_state_lives_from_call_to_call(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = Cached()
    package = save(convert_cached(module), tmp_path / "m.mlpackage")
    module.keys.zero_()
    module.values.zero_()
    executable = Executable(package, "main")
    assert set(executable.states) == {"keys", "values"}
    state, other = executable.make_state(), executable.make_state()
    for x, write in steps(5):
        feeds = {"x": x, "write": write}
        with torch.no_grad():
            expected = module(torch.from_numpy(x), torch.from_numpy(write)).numpy()
        found = executable.run(feeds, state)["y"]
        assert worst_error([found], [expected]) < HALF_ERROR
    forgetful = executable.run(feeds, other)["y"]
    assert worst_error([forgetful], [expected]) > 10 * HALF_ERROR


def test_functions_of_one_package(tmp_path: Path) -> None:
    """Two models merged by coremltools, which keeps what they share once."""
    torch.manual_seed(3)
    module, ct = TwoLayers(), coremltools()
    inputs = {"one": torch.randn(1, 32), "three": torch.randn(3, 32)}
    descriptor, expected = ct.utils.MultiFunctionDescriptor(), {}
    for name, x in inputs.items():
        traced, expected[name] = trace(module, x)
        save(convert(traced, x, "iOS18", "FLOAT16"), tmp_path / f"{name}.mlpackage")
        path = str(tmp_path / f"{name}.mlpackage")
        descriptor.add_function(path, src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "three"
    with third_party_noise_off():
        ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    package = Package(tmp_path / "both.mlpackage")
    assert set(package.functions) == set(inputs) and package.default == "three"
    for name, x in inputs.items():
        found = Executable(package, name).run({"x": x.numpy()})
        assert worst_error(list(found.values()), expected[name]) < HALF_ERROR
    sizes = [sum(f.stat().st_size for f in p.rglob("*.bin")) for p in tmp_path.glob("*.mlpackage")]
    assert len(set(sizes)) == 1


# ---- operators that are not there ----------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lstm(x)[0]
        return result


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    x = torch.zeros(3, 1, 4)
    package = save(convert(trace(Recurrent(), x)[0], x, "iOS16"), tmp_path / "rnn.mlpackage")
    assert "lstm" not in OPS
    words = r"^rnn\.mlpackage: main: lstm '.*': the interpreter has no operator 'lstm'"
    with pytest.raises(EngineError, match=words):
        Executable(package, "main")
