"""What is in an exported Core ML package, and that coremltools agrees with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from coreml_conversion import coremltools, third_party_noise_off
from coreml_packages import COND, EMBEDDED, UNCOND, Exports, export

from flowship.export.families.tarflow import emit_step
from flowship.export.targets.coreml.package import build_program, write_package
from flowship.export.targets.coreml.weights import pack_weights
from flowship.export.targets.coreml.writer import StepWriter
from flowship.runtime.engines.coreml_stage import cache_rows, function_name
from flowship.runtime.engines.coremltools_import import import_coremltools
from flowship.runtime.engines.mil import Executable, Package


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


def test_package_contents(interpreted: Exports, tmp_path: Path) -> None:
    exported = interpreted(EMBEDDED, 3)
    config, package = exported.config, Package(exported.package)
    step, guided = exported.artifacts
    assert (step.branches, guided.branches) == (1, 2) and step.windows == (1, 8, 32)
    names = {function_name(r, w) for r in (1, 2) for w in step.windows}
    assert set(package.functions) == names and package.default == "step1"
    assert package.specification_version == 9  # iOS 18
    for rows, prefix in ((1, ""), (2, "guided_")):
        function = Executable(package, function_name(rows, 8))
        shape = (rows, config.num_heads, cache_rows(config.num_patches), config.head_dim)
        layers = range(config.layers_per_block)
        assert set(function.states) == {f"{prefix}{n}_{i}" for n in "kv" for i in layers}
        assert {(t.dtype.name, t.shape) for t in function.states.values()} == {("fp16", shape)}
        assert {t.dtype.name for t in function.inputs.values()} == {"fp32", "int32"}
        assert [str(t) for t in function.outputs.values()] == [f"fp32[{rows}, 8, 16]"] * 2
    half_bytes = 2 * sum(a.size for a in exported.weights.network.values())
    weights = next(f for f in step.files if f.endswith("weight.bin"))
    assert half_bytes < (exported.root / weights).stat().st_size < 1.02 * half_bytes
    assert sum((exported.root / f).stat().st_size for f in step.files) < 1.2 * half_bytes
    assert {p for p in exported.package.rglob("*") if p.is_file()} == {
        exported.root / f for f in step.files
    }
    again = export(tmp_path, config, 3, exported.weights)  # the same bytes
    for file in step.files:
        assert (exported.root / file).read_bytes() == (again.root / file).read_bytes()


def test_a_relative_path_finds_the_weights(
    interpreted: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = interpreted(UNCOND, 0)
    monkeypatch.chdir(exported.package.parent)
    assert Executable(Package(exported.package.name), "step1").states


def test_coremltools_reads_the_package(interpreted: Exports) -> None:
    """Apple's own reader accepts the folder, and its validation the program."""
    exported = interpreted(UNCOND, 0)
    model = coremltools().models.MLModel(str(exported.package), skip_model_load=True)
    description = model.get_spec().description
    assert {f.name for f in description.functions} == set(Package(exported.package).functions)
    step = next(f for f in description.functions if f.name == "step1")
    assert [i.name for i in step.input] == ["x", "context", "mask", "position"]
    assert [s.name for s in step.state] == ["k_0", "v_0"]


def operation_types(package: Package, function: str) -> Counter[tuple[str, ...]]:
    """How often there is each kind of operation with each type of result."""
    operations = package.function(function).operations
    return Counter((o.kind, *(str(v.type) for v in o.outputs)) for o in operations)


def test_coremltools_has_nothing_to_change(interpreted: Exports, tmp_path: Path) -> None:
    """The program is written without coremltools' passes; run over it, they only reorder it."""
    exported, ct = interpreted(COND, 1), coremltools()
    network = emit_step(exported.config, ("R", "W"), pair=True)
    stored = pack_weights(exported.weights)
    functions = {
        function_name(rows, window): StepWriter(network, stored, rows, window, "slice")
        for rows in (1, 2)
        for window in (1, 8)
    }
    write_package(tmp_path / "ours.mlpackage", functions)
    convert = import_coremltools("a test", ".converters.mil.converter").mil_convert
    with third_party_noise_off():
        convert(
            build_program(functions)[0],
            convert_from="milinternal",
            convert_to="mlprogram",
            specification_version=ct.target.iOS18,
            compute_units=ct.ComputeUnit.ALL,
            export_multi_functions=True,
            skip_model_load=True,
        ).save(str(tmp_path / "theirs.mlpackage"))
    ours, theirs = (Package(tmp_path / f"{name}.mlpackage") for name in ("ours", "theirs"))
    assert set(ours.functions) == set(theirs.functions)
    for name in ours.functions:
        a, b = (operation_types(package, name) for package in (ours, theirs))
        assert a == b
