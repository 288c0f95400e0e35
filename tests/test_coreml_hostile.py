"""Damaged and hostile Core ML packages: an error that says what is wrong, never a crash."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_conversion import convert, coremltools, save, trace
from coreml_packages import UNCOND, Exports
from coreml_tampering import model_file
from torch import nn

from flowship.runtime.engines.mil import Executable, Package
from flowship.runtime.errors import BundleError, EngineError, FlowshipError


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.fixture
def victim(interpreted: Exports, tmp_path: Path) -> Path:
    """A copy of a good package, to be damaged."""
    return Path(shutil.copytree(interpreted(UNCOND, 0).package, tmp_path / "victim.mlpackage"))


def edit_program(package: Path, edit: Callable[[Any], None], name: str = "step1") -> None:
    """Change a function (a MIL_pb2.Function message)."""
    proto = coremltools().proto.Model_pb2.Model()
    proto.ParseFromString(model_file(package).read_bytes())
    edit(proto.mlProgram.functions[name])
    model_file(package).write_bytes(proto.SerializeToString())


def load(package: Path) -> Executable:
    return Executable(Package(package), "step1")


def test_truncated_model(victim: Path) -> None:
    content = model_file(victim).read_bytes()
    for end in np.linspace(1, len(content) - 1, 25).astype(int):
        model_file(victim).write_bytes(content[:end])
        with pytest.raises(BundleError, match=r"victim\.mlpackage"):
            load(victim)


def test_flipped_bytes_never_crash(victim: Path) -> None:
    """A damaged file loads and runs, or raises one of our errors: nothing else."""
    content, rng = model_file(victim).read_bytes(), random.Random(0)
    start = content.index(b"step1") - 8  # the program is before the weights' names in the file
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(start, len(damaged))] = rng.randrange(256)
        model_file(victim).write_bytes(damaged)
        try:
            executable = load(victim)
            feeds = {n: np.zeros(t.static_shape, np.float32) for n, t in executable.inputs.items()}
            executable.run(feeds, executable.make_state())
        except FlowshipError:
            pass


def test_damaged_weights(victim: Path) -> None:
    file = victim / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-64])
    with pytest.raises(BundleError, match=r"weight.bin: the constant at offset .*beyond the file"):
        load(victim)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="beyond the file"):
        load(victim)
    file.write_bytes(bytes(len(content)))
    with pytest.raises(BundleError, match="there is no constant at offset"):
        load(victim)
    file.write_bytes(b"")
    with pytest.raises(BundleError, match="is beyond the file's 0 bytes"):
        load(victim)
    file.unlink()
    with pytest.raises(BundleError, match=r"the file 'weights/weight.bin' is missing"):
        load(victim)


def _set_state_size(function: Any) -> None:
    state = next(i for i in function.inputs if i.name == "k_0")
    tensor = state.type.stateType.wrappedType.tensorType
    tensor.dimensions[2].constant.size = 1 << 40


def _set_kind(kind: str) -> Callable[[Any], None]:
    def edit(function: Any) -> None:
        operations = function.block_specializations[function.opset].operations
        next(o for o in operations if o.type == "gelu").type = kind

    return edit


def _set_blob(field: str, value: object) -> Callable[[Any], None]:
    def edit(function: Any) -> None:
        operations = function.block_specializations[function.opset].operations
        values = (o.attributes["val"] for o in operations if o.type == "const")
        blob = next(v for v in values if v.HasField("blobFileValue")).blobFileValue
        setattr(blob, field, value)

    return edit


def _drop_state_input(function: Any) -> None:
    function.inputs.remove(next(i for i in function.inputs if i.name == "k_0"))


def _rename_output(function: Any) -> None:
    function.block_specializations[function.opset].outputs[0] = "nothing"


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (_set_state_size, BundleError, r"1099511627776.* is larger than the \d+ elements"),
        (_set_kind("warp"), EngineError, r"step1: warp 'gelu_0': the interpreter has no operator"),
        (_set_kind("conv"), EngineError, "the parameter 'mode' is not supported"),
        (_set_blob("offset", 1 << 62), BundleError, "is beyond the file's"),
        (_set_blob("fileName", "@model_path/../../../x"), BundleError, "is not allowed"),
        (_set_blob("fileName", "/etc/passwd"), BundleError, "is not in the package"),
        (_drop_state_input, BundleError, "reads 'k_0', which nothing computes before"),
        (_rename_output, BundleError, "nothing computes the output 'nothing'"),
    ],
)
def test_hostile_program(
    victim: Path, edit: Callable[[Any], None], error: type[Exception], match: str
) -> None:
    edit_program(victim, edit)
    with pytest.raises(error, match=match):
        load(victim)


def test_operation_that_cannot_be_computed(victim: Path) -> None:
    def edit(function: Any) -> None:
        operations = function.block_specializations[function.opset].operations
        linear = next(o for o in operations if o.type == "linear")
        weights = linear.inputs["weight"].arguments[0]
        weights.name = linear.inputs["bias"].arguments[0].name

    edit_program(victim, edit)
    executable = load(victim)
    feeds = {n: np.zeros(t.static_shape, np.float32) for n, t in executable.inputs.items()}
    with pytest.raises(BundleError, match=r"step1: linear 'linear_0' cannot be computed"):
        executable.run(feeds, executable.make_state())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "names no root model"),
        ("[]", "names no root model"),
        ("[" * 100_000, "names no root model"),
        ("../../secret", "is not allowed"),
        ("/etc/passwd", "is not allowed"),
        ("com.apple.CoreML/absent.mlmodel", "is missing"),
        ("link/passwd", "leaves the package"),
    ],
)
def test_hostile_manifest(victim: Path, content: str, match: str) -> None:
    (victim / "Data" / "link").symlink_to("/etc")
    if content[0] not in "{[":
        entries = {"a": {"path": content}}
        content = json.dumps({"itemInfoEntries": entries, "rootModelIdentifier": "a"})
    (victim / "Manifest.json").write_text(content)
    with pytest.raises(BundleError, match=match):
        Package(victim)


def test_missing_things(victim: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no function 'step7': it has .*step1"):
        Executable(Package(victim), "step7")
    executable = load(victim)
    with pytest.raises(EngineError, match="got the inputs none, expected x, context"):
        executable.run({})
    feeds = {n: np.zeros(t.static_shape, np.float32) for n, t in executable.inputs.items()}
    with pytest.raises(EngineError, match=r"the state k_0 fp16\[1, 1, 32, 64\] is missing"):
        executable.run(feeds, {})
    with pytest.raises(EngineError, match=r"the input x has the shape \(2,\), expected fp32"):
        executable.run({**feeds, "x": np.zeros(2)}, executable.make_state())
    model_file(victim).write_bytes(b"\x08\x04")  # a version and no program
    with pytest.raises(BundleError, match="not an ML program"):
        Package(victim)
    with pytest.raises(BundleError, match=r"Manifest.json: cannot be read"):
        Package(tmp_path / "absent.mlpackage")


def test_factor_of_zero(tmp_path: Path) -> None:
    """Division by zero is an error of the package, which the message names."""
    x = torch.zeros(1, 4, 2, 2)
    package = tmp_path / "shuffle.mlpackage"
    save(convert(trace(nn.PixelShuffle(2), x)[0], x, "iOS16"), package)

    def edit(function: Any) -> None:
        operations = function.block_specializations[function.opset].operations
        shuffle = next(o for o in operations if o.type == "pixel_shuffle")
        name = shuffle.inputs["upscale_factor"].arguments[0].name
        factor = next(o for o in operations if o.outputs[0].name == name)
        factor.attributes["val"].immediateValue.tensor.ints.values[0] = 0

    edit_program(package, edit, "main")
    executable = Executable(Package(package), "main")
    with pytest.raises(BundleError, match=r"shuffle.mlpackage: main: pixel_shuffle .*cannot be"):
        executable.run({"x": x.numpy()})
