"""``flowship verify`` on Core ML bundles whose hashes are right and whose numbers are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Ran, Terminal
from conftest import TRAINED, UNCONDITIONAL, Exporter, golden_model
from coreml_tampering import (
    Array,
    Stored,
    declare,
    edit_functions,
    quantized_matrices,
)

from flowship.export import pipeline
from flowship.export.request import ExportRequest
from flowship.runtime import Bundle, verification
from flowship.runtime.engines.base import EngineOptions
from flowship.runtime.engines.coreml_interpreter import InterpreterEngine
from flowship.runtime.golden_steps import golden_steps_path, write_golden_steps
from flowship.runtime.progress import ProgressLine

PRECISIONS = ("int8", "int4", "pal8", "pal6", "pal4")
ENGINE = "coreml-interpreter"
VICTIM = "block1"


def with_golden_steps(source: Path, target: Path) -> Path:
    """A copy of a bundle, with the golden parameters of all its precisions."""
    shutil.copytree(source, target)
    with Bundle.open(source) as bundle:
        for precision in bundle.manifest.precisions["coreml"]:
            with closing(InterpreterEngine(bundle, EngineOptions(precision))) as engine:
                write_golden_steps(bundle, engine, target, "coreml")
    declare(target)
    return target


Sound = Callable[[str], Path]


@pytest.fixture(scope="module")
def sound(exported: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """The smallest golden model in one precision."""
    done: dict[str, Path] = {}

    def get(precision: str) -> Path:
        if precision not in done:
            source = exported(golden_model(UNCONDITIONAL).checkpoint, ("coreml",), (precision,))
            folder = tmp_path_factory.mktemp(precision)
            done[precision] = with_golden_steps(source, folder / "sound.flowship")
        return done[precision]

    return get


@pytest.fixture
def victim(sound: Sound, tmp_path: Path) -> Sound:
    """A copy of the same, to be damaged."""

    def get(precision: str) -> Path:
        return Path(shutil.copytree(sound(precision), tmp_path / "victim.flowship"))

    return get


def package_of(bundle: Path, precision: str) -> Path:
    return bundle / f"coreml/{precision}/{VICTIM}.mlpackage"


def verify(flowship: Terminal, bundle: Path) -> Ran:
    declare(bundle)
    return flowship("verify", bundle, "--engine", ENGINE, "-q")


def require_caught(ran: Ran, precision: str, *words: str) -> str:
    """Exit 1; the line of the failed check with these words names the artifact VICTIM alone."""
    assert ran.status == 1 and "Traceback" not in ran.err, ran
    failed = [line for line in ran.out.splitlines() if line.startswith("FAIL")]
    assert failed and all(f"{ENGINE} {precision}" in line for line in failed), ran.out
    (line,) = (line for line in failed if all(word in line for word in words))
    assert f"coreml/{precision}/{VICTIM}.mlpackage" in line, line
    assert "block0.mlpackage" not in line, line
    return line


def largest(matrices: list[dict[str, Stored]]) -> dict[str, Stored]:
    """The parameters of the matrix with most codes."""
    return max(matrices, key=lambda m: codes_of(m).read().size)


def codes_of(matrix: dict[str, Stored]) -> Stored:
    return matrix["data"] if "data" in matrix else matrix["indices"]


def values_of(matrix: dict[str, Stored]) -> Array:
    """The weights that the codes stand for, [out, in]."""
    codes = codes_of(matrix).read()
    if "lut" in matrix:
        found: Array = matrix["lut"].read().ravel()[codes]
        return found
    scale = matrix["scale"].read()
    weights: Array = codes * np.repeat(scale, codes.shape[1] // scale.shape[1], 1)
    return weights


def flip_largest(matrix: dict[str, Stored]) -> tuple[int, float]:
    """Flip the top bit of the code where that changes the weight most: in the largest group.

    Returns:
        the weight's number, and its change over the root mean square of the matrix.
    """
    codes, before = codes_of(matrix), values_of(matrix)
    top = codes.kind.dtype.bits - 1
    if "lut" in matrix:
        palette, numbers = matrix["lut"].read().ravel(), codes.read()
        changes = np.abs(palette[numbers ^ (1 << top)] - palette[numbers])
    else:
        scale = matrix["scale"].read()
        changes = np.repeat(scale, before.shape[1] // scale.shape[1], 1) * 2**top
    index = int(np.argmax(changes))
    codes.flip_bit(index, top)
    difference = np.abs(values_of(matrix) - before).ravel()
    assert np.flatnonzero(difference).tolist() == [index]
    return index, float(difference[index] / np.sqrt(np.square(before).mean()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sound_bundle_passes(flowship: Terminal, sound: Sound, precision: str) -> None:
    ran = flowship("verify", sound(precision), "--engine", ENGINE, "--json", "-q")
    details = {check["name"]: check["detail"] for check in ran.json["checks"]}
    assert ran.status == 0 and ran.json["passed"]
    assert details[f"{ENGINE} {precision} golden parameters"] == "2 blocks, bit-exact, limit 0.001"
    assert details[f"{ENGINE} {precision} golden picture of seed 1"] == "bit-exact"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_flipped_code(flowship: Terminal, victim: Sound, precision: str) -> None:
    """One weight of the 40 000 of a block, off by 2 to 6 times the rms of its matrix.

    It moves no pixel by more than 2 of 255 levels: only the golden parameters see it.
    """
    bundle = victim(precision)
    _, change = flip_largest(largest(quantized_matrices(package_of(bundle, precision))))
    assert 1.5 < change < 8
    line = require_caught(verify(flowship, bundle), precision, "golden parameters")
    assert "is off by" in line and "affine parameters, limit 0.001" in line


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_one_wrong_scale(flowship: Terminal, victim: Sound, precision: str) -> None:
    """The largest scale of the largest matrix, one and a half times what it was."""
    bundle = victim(precision)
    scale = largest(quantized_matrices(package_of(bundle, precision)))["scale"]
    scale.multiply(int(np.argmax(scale.read())), 1.5)
    require_caught(verify(flowship, bundle), precision, "golden parameters", "is off by")


@pytest.mark.parametrize("precision", ["pal8", "pal6", "pal4"])
def test_one_changed_palette_entry(flowship: Terminal, victim: Sound, precision: str) -> None:
    """The entry that most weights use, moved by a tenth of the palette's range."""
    bundle = victim(precision)
    matrix = largest(quantized_matrices(package_of(bundle, precision)))
    lut = matrix["lut"].read().ravel()
    entry = int(np.argmax(np.bincount(matrix["indices"].read().ravel())))
    matrix["lut"].multiply(entry, float(1 + 0.1 * np.ptp(lut) / lut[entry]))
    require_caught(verify(flowship, bundle), precision, "golden parameters", "is off by")


# ---- states --------------------------------------------------------------------------------------


def _undeclare_state(name: str, function: Any) -> None:
    """Take k_0 from the inputs, and leave what reads it."""
    for value in [i for i in function.inputs if i.name.endswith("k_0")]:
        function.inputs.remove(value)


def _forget_state(name: str, function: Any) -> None:
    """Take k_0 out altogether: what was read is zeros, what was written goes nowhere."""
    state = next(i for i in function.inputs if i.name.endswith("k_0"))
    kind = state.type.stateType.wrappedType.tensorType
    shape = [d.constant.size for d in kind.dimensions]
    block = function.block_specializations[function.opset]
    for operation in list(block.operations):
        if state.name not in _names_read(operation, "input"):
            continue
        if operation.type == "write_state":
            block.operations.remove(operation)
        else:
            _make_zeros(operation, shape)
    function.inputs.remove(state)


def _names_read(operation: Any, parameter: str) -> list[str]:
    if parameter not in operation.inputs:  # asking a protobuf map for what it lacks adds it
        return []
    return [argument.name for argument in operation.inputs[parameter].arguments]


def _make_zeros(operation: Any, shape: list[int]) -> None:
    """Turn an operation into ``fill`` with the value 0, its arguments written into the program."""
    operation.type = "fill"
    operation.ClearField("inputs")
    sizes = operation.inputs["shape"].arguments.add().value
    sizes.type.tensorType.dataType = 23  # int32
    sizes.type.tensorType.rank = 1
    sizes.type.tensorType.dimensions.add().constant.size = len(shape)
    sizes.immediateValue.tensor.ints.values.extend(shape)
    zero = operation.inputs["value"].arguments.add().value
    zero.type.tensorType.dataType = 11  # fp32
    zero.immediateValue.tensor.floats.values.append(0.0)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_undeclare_state, ("reads 'k_0', which nothing computes before",)),
        (_forget_state, ("the function step1 has no state 'k_0' (its states: v_0)",)),
    ],
)
def test_missing_state(
    flowship: Terminal,
    victim: Sound,
    edit: Callable[[str, Any], None],
    words: tuple[str, ...],
) -> None:
    bundle = victim("int4")
    edit_functions(package_of(bundle, "int4"), edit)
    require_caught(verify(flowship, bundle), "int4", *words)


def test_state_missing_in_one_function_only(flowship: Terminal, victim: Sound) -> None:
    bundle = victim("pal4")

    def edit(name: str, function: Any) -> None:
        if name == "guided8":
            _forget_state(name, function)

    edit_functions(package_of(bundle, "pal4"), edit)
    words = "the function guided8 has no state 'guided_k_0' (its states: guided_v_0)"
    require_caught(verify(flowship, bundle), "pal4", words)


def test_missing_output(flowship: Terminal, victim: Sound) -> None:
    bundle = victim("int8")

    def edit(name: str, function: Any) -> None:
        del function.block_specializations[function.opset].outputs[0]

    edit_functions(package_of(bundle, "int8"), edit)
    require_caught(verify(flowship, bundle), "int8", "step1 has no output 'xa'")


# ---- what sees what ------------------------------------------------------------------------------


def test_large_models_are_caught_by_golden_parameters_alone(
    flowship: Terminal, victim: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no golden pictures, and the round trip of a patch returns with any weights."""
    bundle = victim("int8")
    monkeypatch.setattr(verification, "QUICK_CALLS", 0)
    flip_largest(largest(quantized_matrices(package_of(bundle, "int8"))))
    ran = verify(flowship, bundle)
    require_caught(ran, "int8", "golden parameters", "is off by")
    assert f"ok   {ENGINE} int8 encode(decode(z)): first" in ran.out


def test_bundles_without_golden_parameters(flowship: Terminal, victim: Sound) -> None:
    """Golden pictures see what shows in a picture: here all scales of a matrix, times four."""
    bundle = victim("int8")
    (bundle / golden_steps_path("coreml", "int8")).unlink()
    _forget_files(bundle, "steps.f32")
    scale = largest(quantized_matrices(package_of(bundle, "int8")))["scale"]
    for index in range(scale.read().size):
        scale.multiply(index, 4)
    ran = verify(flowship, bundle)
    assert ran.status == 1
    line = next(line for line in ran.out.splitlines() if line.startswith("FAIL"))
    assert f"{ENGINE} int8 golden picture of seed 1: 8-bit values differ by up to" in line
    assert "made by coreml/int8/block1.mlpackage, coreml/int8/block0.mlpackage" in line


def _forget_files(bundle: Path, ending: str) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {k: v for k, v in manifest["files"].items() if not k.endswith(ending)}
    path.write_text(json.dumps(manifest))


def test_damaged_golden_parameters(flowship: Terminal, victim: Sound) -> None:
    bundle = victim("int8")
    path = bundle / golden_steps_path("coreml", "int8")
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    ran = verify(flowship, bundle)
    assert ran.status == 1 and "golden/coreml-int8.steps.f32 has" in ran.out
    values = np.frombuffer(content, "<f4").reshape(2, -1)  # two blocks
    half = values[:, : values.shape[1] // 3].copy()  # of the plain graph, of three branches
    path.write_bytes(half.tobytes())
    ran = verify(flowship, bundle)
    assert ran.status == 1 and "block1.mlpackage: its windows give" in ran.out


def test_one_flipped_code_of_the_trained_model(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 3.1 million weights, off by 4 times the rms of its matrix or more.

    Exported and verified as large models are, because the interpreter takes seconds for pictures.
    """
    monkeypatch.setattr(pipeline, "FULL_CHECK_CALLS", 0)
    monkeypatch.setattr(verification, "QUICK_CALLS", 0)
    for module in (pipeline, verification):
        monkeypatch.setattr(module, "SPOT_PATCHES", 10)
    request = ExportRequest(("coreml",), ("int8",))
    source = tmp_path / "source.flowship"
    pipeline.export_checkpoint(TRAINED, source, request, ProgressLine(enabled=False))
    bundle = with_golden_steps(source, tmp_path / "trained.flowship")
    matrices = quantized_matrices(package_of(bundle, "int8"))
    matrix = max(matrices, key=lambda m: float(m["scale"].read().max()))
    _, change = flip_largest(matrix)
    assert change > 4
    ran = verify(flowship, bundle)
    require_only(ran, f"coreml/int8/{VICTIM}.mlpackage is off by", "golden parameters")


def require_only(ran: Ran, *words: str) -> None:
    """Exit 1, and one failed check with these words."""
    (line,) = (line for line in ran.out.splitlines() if line.startswith("FAIL"))
    assert ran.status == 1 and all(word in line for word in words), line
    assert line.count(".mlpackage") == 1, line
