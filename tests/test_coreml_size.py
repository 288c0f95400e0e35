"""The text of Core ML packages: small, and saying what coremltools' builder said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowship.export.checkpoint import Checkpoint
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.coreml import CoreMLTarget
from flowship.export.targets.coreml import writer as coreml
from flowship.export.targets.coreml.program_text import shorten
from flowship.runtime.engines.coremltools_import import import_coremltools
from flowship.runtime.engines.mil import Executable, Package
from flowship.runtime.engines.mil.program import Function

EMBEDDED = Path(__file__).parents[1] / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"
COND = Path(__file__).parent / "golden" / "tiny_cond_model_4_128_3_2_0.05.pth"
MATRIX = re.compile(r"attn_blocks\.\d+\.(attention\.(qkv|proj)|mlp\.main\.[02])\.weight")
ONNX_FLOAT32_BYTES = 13_200_000  # the embedded model, all blocks (`flowship inspect`)


def export(root: Path, checkpoint: Path, **options: Any) -> Package:
    """Block 1 in int8."""
    opened = Checkpoint.open(checkpoint)
    stage = next(s for s in opened.config.flow_spec().ar_blocks if s.block == 1)
    weights = opened.block(1)
    quantized = {
        name: round_to_nearest(array, FORMATS["int8"])
        for name, array in weights.network.items()
        if MATRIX.fullmatch(name)
    }
    choices = TargetOptions(**options)
    weights = replace(weights, quantized=quantized)
    step, _ = CoreMLTarget().export_block(root, opened.config, stage, weights, "int8", choices)
    return Package(root / step.path)


def functions(package: Package) -> Iterator[Function]:
    assert len(package.functions) > 1
    return (package.function(name) for name in package.functions)


def text_bytes(package: Package) -> int:
    return (package.path / "Data" / "com.apple.CoreML" / "model.mlmodel").stat().st_size


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A block of the embedded model with the default windows."""
    return export(tmp_path_factory.mktemp("embedded"), EMBEDDED)


def test_embedded_model_is_small(embedded: Package) -> None:
    """Measured with coremltools 9.0: 154 kB of text (268 kB as built), 980 kB in all."""
    assert set(embedded.functions) == {f"{k}{w}" for k in ("step", "guided") for w in (1, 8, 32)}
    assert 60_000 < text_bytes(embedded) < 160_000
    total = sum(p.stat().st_size for p in embedded.path.rglob("*") if p.is_file())
    assert 4 * total < 0.3 * ONNX_FLOAT32_BYTES


def test_nothing_is_said_twice(embedded: Package) -> None:
    for function in functions(embedded):
        parameters = [
            (str(o.outputs[0].type), repr(o.attributes["val"]))
            for o in function.operations
            if o.kind == "const" and np.size(o.attributes["val"]) < 10  # not in the weights file
        ]
        assert len(parameters) > 5
        assert len(parameters) == len(set(parameters))


def test_names(embedded: Package) -> None:
    """Unique in a function; inputs, outputs, states, matrices and operators keep theirs."""
    states = [f"{n}_{i}" for i in range(4) for n in "kv"]
    for function in functions(embedded):
        guided = function.name.startswith("guided")
        inputs = ["x", "context", "mask", "position", *(["q_scale"] if guided else [])]
        prefix = "guided_" if guided else ""
        assert [v.name for v in function.inputs] == inputs + [f"{prefix}{s}" for s in states]
        assert function.outputs == ("xa", "xb")
        made = [v.name for o in function.operations for v in o.outputs]
        assert len(made) == len({*made, *(v.name for v in function.inputs)}) - len(function.inputs)
        long = {name for name in made if not re.fullmatch(r"t\d+", name)} - {"xa", "xb"}
        layers = ("attention_qkv", "attention_proj", "mlp_main_0", "mlp_main_2")
        matrices = {f"attn_blocks_{i}_{layer}_weight" for i in range(4) for layer in layers}
        assert long == {"proj_in_weight", "proj_out_weight", *matrices}
        linears = [o.name for o in function.operations if o.kind == "linear"]
        assert linears == [f"linear_{i}" for i in range(18)]


@pytest.mark.parametrize("units", ["cpu-and-gpu", "cpu-and-ne"])  # both forms of the cache update
def test_short_text_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: str
) -> None:
    options: dict[str, Any] = {"windows": (1, 8), "coreml_compute_units": units}
    ours = export(tmp_path / "ours", COND, **options)
    with monkeypatch.context() as patch:
        patch.setattr(coreml, "shorten", lambda function: None)
        built = export(tmp_path / "built", COND, **options)
    assert text_bytes(ours) < 0.75 * text_bytes(built)
    weights = [next(p.path.rglob("weight.bin")).read_bytes() for p in (ours, built)]
    assert weights[0] == weights[1]
    for name in built.functions:
        a, b = (p.function(name) for p in (ours, built))
        assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
        steps = [
            [(o.kind, o.name, [v.type for v in o.outputs]) for o in f.operations if computes(o)]
            for f in (a, b)
        ]
        assert steps[0] == steps[1]
        for x, y in zip(run(ours, name), run(built, name), strict=True):
            assert np.isfinite(x).all()
            assert x.tobytes() == y.tobytes()


def computes(operation: Any) -> bool:
    return not operation.kind.startswith("const")


def run(package: Package, name: str) -> list[np.ndarray[Any, Any]]:
    """Outputs and new states of a function for random inputs and states."""
    function, rng = Executable(package, name), np.random.default_rng(3)
    inputs = {
        key: rng.standard_normal(kind.static_shape).astype(np.float32)
        for key, kind in function.inputs.items()
    }
    if "position" in inputs:
        inputs["position"] = np.array([3], np.int32)
    state = function.make_state()
    for rows in state.values():
        rows[:] = rng.standard_normal(rows.shape).astype(np.float16)
    return [*function.run(inputs, state).values(), *state.values()]


def test_coremltools_reads_the_text(embedded: Package) -> None:
    """Its reader rebuilds each function and infers every type anew."""
    ct = import_coremltools("a test")
    spec = ct.models.MLModel(str(embedded.path), skip_model_load=True).get_spec()
    load = import_coremltools("a test", ".converters.mil.frontend.milproto.load").load
    weights = embedded.path / "Data" / "com.apple.CoreML" / "weights"
    program = load(spec, ct.target.iOS18, str(weights))
    assert set(program.functions) == set(embedded.functions)
    for function in functions(embedded):
        theirs = Counter(o.op_type for o in program.functions[function.name].operations)
        ours = Counter(o.kind for o in function.operations)
        for kind in ("linear", "layer_norm", "constexpr_blockwise_shift_scale", "slice_update"):
            assert theirs[kind] == ours[kind] > 0


def test_only_equal_bits_are_shared() -> None:
    """0.0 and -0.0, 1 and True, a number and a list of one stay apart."""
    mil = import_coremltools("a test", ".converters.mil.mil")
    mb, target = mil.Builder, import_coremltools("a test").target.iOS18
    with mil.Function({"t": mb.placeholder((1,))}, opset_version=target) as function:
        y = function.inputs["t"]
        for number in (0.0, -0.0, 0.0, 1.0, -0.0, 1.0 + 2**-23):
            y = mb.add(x=y, y=np.float32(number))
        y = mb.concat(values=[y, y], axis=0)
        y = mb.transpose(x=mb.expand_dims(x=y, axes=[0]), perm=[0, 1])
        y = mb.reduce_sum(x=y, axes=[0], keep_dims=False, name="sum")
        function.set_outputs([y])
    before = [o.name for o in function.operations if o.op_type != "const"]
    shorten(function)
    assert [o.name for o in function.operations if o.op_type != "const"] == before
    found = [o.outputs[0].val for o in function.operations if o.op_type == "const"]
    numbers = [v for v in found if isinstance(v, np.float32)]
    assert [float(v).hex() for v in numbers] == [
        float(v).hex() for v in (0.0, -0.0, 1.0, 1.0 + 2**-23)
    ]
    # axis=0 of concat, axes=[0] once for two operators, perm, interleave and keep_dims
    assert len(found) - len(numbers) == 4
    assert {"t"} == set(function.inputs)
    assert function.outputs[0].name == "sum"
