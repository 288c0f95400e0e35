"""Core ML packages with quantized weights, in both forms of the cache update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coreml_conversion import relative_error
from coreml_packages import COND, Floats

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import BlockWeights, TarFlowConfig
from flowship.export.quantize.formats import FORMATS, Format
from flowship.export.quantize.matrix import QuantizedMatrix
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.coreml import CoreMLTarget, placement_note
from flowship.export.targets.coreml.cache import CACHE_FORMS
from flowship.export.targets.coreml.weights import Packed, pack_matrix
from flowship.runtime.engines.base import EngineOptions
from flowship.runtime.engines.coreml_interpreter import InterpreterEngine
from flowship.runtime.engines.coreml_stage import cache_rows, write_positions
from flowship.runtime.engines.mil import Executable, Package
from flowship.runtime.errors import BundleError, CheckpointError, EngineError, UsageError
from flowship.runtime.manifest import Artifact
from flowship.runtime.spec import ARBlock

TARGET = CoreMLTarget()
SCHEMES = ("int8", "int4", "pal8", "pal6", "pal4", "mixed")
MIXTURE = ("int8", "int4_g32", "pal8", "pal6", "pal4", None, "int4_g64", None)

# Of the largest value, against torch with the very values that the codes stand for: results are
# rounded to float16 (see test_coreml), and so are scales of whole rows.
HALF_ERROR = 4e-3


def is_matrix_of_layer(name: str) -> bool:
    return name.startswith("attn_blocks.") and name.endswith(
        ("qkv.weight", "proj.weight", "main.0.weight", "main.2.weight")
    )


def quantize(weights: BlockWeights, precision: str) -> BlockWeights:
    """Round to nearest; ``mixed`` takes one format after the other, float among them."""
    names = [name for name in weights.network if is_matrix_of_layer(name)]
    own = TARGET.formats.get(precision, (None,))[:1]
    formats = MIXTURE if precision == "mixed" else own
    chosen = {name: formats[i % len(formats)] for i, name in enumerate(names)}
    matrices = {
        name: round_to_nearest(weights.network[name], FORMATS[format])
        for name, format in chosen.items()
        if format
    }
    return replace(weights, quantized=matrices)


@dataclass(frozen=True)
class Exported:
    root: Path
    config: TarFlowConfig
    stage: ARBlock
    weights: BlockWeights
    artifacts: list[Artifact]

    @property
    def package(self) -> Path:
        return self.root / self.artifacts[0].path

    @property
    def size(self) -> int:
        return sum((self.root / f).stat().st_size for f in self.artifacts[0].files)

    def engine(self) -> InterpreterEngine:
        """With what an engine uses of a Bundle."""
        found = {(a.stage, a.branches): (a,) for a in self.artifacts}
        manifest = SimpleNamespace(
            name="test", find=lambda engine, precision, role, *key: found.get(key, ())
        )
        bundle: Any = SimpleNamespace(manifest=manifest, artifact_path=lambda a: self.root / a.path)
        return InterpreterEngine(bundle, EngineOptions(self.artifacts[0].precision))

    def run(self, branches: int = 1, window: int = 8) -> tuple[Floats, Floats, Floats]:
        """(x, xa, xb) of the whole sequence; the guided class rows are 1 and the mean."""
        config = self.config
        shape = (1, config.num_patches, config.patch_dim)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        parts = []
        with closing(self.engine().open(self.stage, branches=branches)) as stage:
            classes = self.weights.classes[[1, -1][:branches]][:, None]
            stage.begin(self.weights.pos, classes, np.ones(branches, np.float32))
            for start in range(0, config.num_patches, window):
                xa, xb = stage.step(x[:, start : start + window], start)
                parts.append((xa[:, 0], xb[:, 0]))
        xas, xbs = zip(*parts, strict=True)
        return x, np.concatenate(xas, 1), np.concatenate(xbs, 1)


def export(root: Path, checkpoint: Path, block: int, precision: str, **options: Any) -> Exported:
    opened = Checkpoint.open(checkpoint)
    stage = next(s for s in opened.config.flow_spec().ar_blocks if s.block == block)
    weights = quantize(opened.block(block), precision)
    choices = TargetOptions(**options)
    artifacts = TARGET.export_block(root, opened.config, stage, weights, precision, choices)
    return Exported(root, opened.config, stage, weights, artifacts)


Get = Callable[[str], Exported]


@pytest.fixture(scope="module")
def scheme(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """One block of the golden model in each precision, exported once, windows 1 and 8."""
    done: dict[str, Exported] = {}

    def get(precision: str) -> Exported:
        if precision not in done:
            root = tmp_path_factory.mktemp(precision)
            done[precision] = export(root, COND, 1, precision, windows=(1, 8))
        return done[precision]

    return get


@pytest.mark.parametrize("precision", SCHEMES)
def test_package_computes_what_its_codes_say(scheme: Get, precision: str) -> None:
    import torch

    exported = scheme(precision)
    for branches in (1, 2):
        x, *found = exported.run(branches)
        classes = exported.weights.classes[[1, -1][:branches]][:, None]
        context = torch.from_numpy(exported.weights.pos[None] + classes)
        repeated = torch.from_numpy(x).expand(branches, -1, -1)
        module = exported.weights.dequantized().module(exported.config)
        for got, want in zip(found, module(repeated, context)[:2], strict=True):
            assert relative_error(got, want.numpy()) < HALF_ERROR


@pytest.mark.parametrize("precision", SCHEMES)
def test_file_holds_the_codes_once(scheme: Get, precision: str) -> None:
    """Weights unpacked from the file are the dequantized ones, and all functions share them."""
    exported = scheme(precision)
    package = Package(exported.package)
    functions = [Executable(package, name) for name in package.functions]
    for name, matrix in exported.weights.quantized.items():
        held = [f._constants[name.replace(".", "_")] for f in functions]
        assert all(h is held[0] for h in held)
        wanted = matrix.dequantized()
        step = np.abs(wanted).max(axis=1, keepdims=True)
        assert (np.abs(held[0] - wanted) <= 1e-3 * step + 1e-7).all()
    quantized = exported.weights.quantized
    stored = sum(m.format.weight_bytes(*m.shape, scale_bytes=2) for m in quantized.values())
    floats = [a.size for n, a in exported.weights.network.items() if n not in quantized]
    weights = next(f for f in exported.artifacts[0].files if f.endswith("weight.bin"))
    file = (exported.root / weights).stat().st_size
    assert stored < file < 1.02 * stored + 2 * sum(floats) + 128 * 200  # records are aligned to 64


def test_operators(scheme: Get) -> None:
    operators = {
        "int8": {"constexpr_blockwise_shift_scale"},
        "pal6": {"constexpr_lut_to_dense"},
        "mixed": {"constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"},
    }
    for precision, wanted in operators.items():
        package = Package(scheme(precision).package)
        kinds = Counter(o.kind for o in package.function("guided8").operations)
        assert {k for k in kinds if k.startswith("constexpr_")} == wanted


def test_coremltools_agrees(scheme: Get) -> None:
    """Apple's own reader decompresses the palettes and codes to the same values."""
    from flowship.runtime.engines.coremltools_import import import_coremltools

    exported = scheme("mixed")
    optimize = import_coremltools("a test", ".optimize._utils")
    for name, matrix in exported.weights.quantized.items():
        packed = pack_matrix(name, matrix)
        if matrix.palette is not None:
            lut = packed.parameters["lut"]
            theirs = optimize.lut_to_dense(packed.parameters["indices"], lut, None)
            assert relative_error(theirs.astype(np.float32), matrix.dequantized()) < 1e-3
    ct = import_coremltools("a test")
    model = ct.models.MLModel(str(exported.package), skip_model_load=True)
    step = next(f for f in model.get_spec().description.functions if f.name == "step8")
    assert {i.name for i in step.input} == {"x", "context", "mask", "position"}


# ---- the forms of the cache update ---------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "pal4"])
def test_blend_writes_what_slice_writes(tmp_path: Path, precision: str) -> None:
    units = {"a": "cpu-and-gpu", "b": "cpu-and-ne"}
    both = [
        export(tmp_path / k, COND, 2, precision, windows=(1, 8), coreml_compute_units=u)
        for k, u in units.items()
    ]
    assert [e.artifacts[0].form for e in both] == ["slice", "blend"]
    inputs = [set(Executable(Package(e.package), "step8").inputs) for e in both]
    assert inputs[0] ^ inputs[1] == {"position", "write"}
    for branches, window in ((1, 5), (2, 8)):
        slice_, blend = (e.run(branches, window) for e in both)
        assert all((a == b).all() for a, b in zip(slice_, blend, strict=True))
    kinds = {o.kind for o in Package(both[1].package).function("step8").operations}
    assert "slice_update" not in kinds


def test_compute_units() -> None:
    assert CACHE_FORMS[TargetOptions().coreml_compute_units] == "slice"
    assert CACHE_FORMS["all"] == "blend"  # the Neural Engine may be among them
    note = placement_note("int4", "all")
    assert note and "pal8, pal6 or pal4" in note
    note = placement_note("pal4", "cpu-and-gpu")
    assert note and "--coreml-compute-units cpu-and-ne" in note
    assert placement_note("int8", "cpu-and-gpu") is placement_note("fp16", "all") is None


def test_write_positions() -> None:
    write = write_positions(3, 2, 8)
    assert write.shape == (1, 1, 8, 2) and write.sum() == 2
    assert write[0, 0, 3, 0] == write[0, 0, 4, 1] == 1


# ---- packing -------------------------------------------------------------------------------------


def test_last_group_may_be_shorter() -> None:
    """48 columns in groups of 32 become blocks of 16: the same values."""
    weight = np.random.default_rng(1).standard_normal((4, 48)).astype(np.float32)
    matrix = round_to_nearest(weight, FORMATS["int4_g32"])
    zeros = np.ones(matrix.scales.shape, np.int8) if matrix.scales is not None else None
    packed = pack_matrix("w", replace(matrix, zero_points=zeros))
    scale, offset = packed.parameters["scale"], packed.parameters["offset"]
    assert scale.shape == offset.shape == (4, 3) and (scale[:, 0] == scale[:, 1]).all()
    spread = np.repeat(scale.astype(np.float32), 16, 1)
    found = (packed.parameters["data"].astype(np.float32) - 1) * spread
    assert relative_error(found, replace(matrix, zero_points=zeros).dequantized()) < 1e-3


def test_packing_refuses() -> None:
    codes, scales = np.ones((2, 4), np.int8), np.full((2, 1), 600.0).astype(np.float32)
    with pytest.raises(CheckpointError, match=r"w has a value of magnitude 76800"):
        pack_matrix("w", QuantizedMatrix(FORMATS["int8"], codes, scales))
    assert isinstance(
        pack_matrix("w", QuantizedMatrix(FORMATS["int8"], codes, scales * np.float32(0.5))), Packed
    )


def test_target_refuses(tmp_path: Path) -> None:
    opened = Checkpoint.open(COND)
    stage, weights = opened.config.flow_spec().ar_blocks[0], opened.block(2)
    arguments = (tmp_path, opened.config, stage)
    with pytest.raises(UsageError, match="coreml int8: no matrix is quantized"):
        TARGET.export_block(*arguments, weights, "int8", TargetOptions())
    with pytest.raises(UsageError, match=r"qkv.weight has the format int8, expected int4_g32"):
        TARGET.export_block(*arguments, quantize(weights, "int8"), "int4", TargetOptions())
    with pytest.raises(UsageError, match=r"has the format int8, expected float16"):
        TARGET.export_block(*arguments, quantize(weights, "int8"), "fp16", TargetOptions())
    assert Format("int8", "linear", 8) == FORMATS["int8"]


def test_unknown_form(scheme: Get) -> None:
    exported = scheme("int8")
    other = replace(exported, artifacts=[replace(a, form="stateful") for a in exported.artifacts])
    with pytest.raises(EngineError, match=r"unknown form 'stateful'.*expected slice or blend"):
        other.engine().open(other.stage)


def test_cache_is_half(scheme: Get) -> None:
    exported, config = scheme("int4"), scheme("int4").config
    shape = (1, config.num_heads, cache_rows(config.num_patches), config.head_dim)
    states = Executable(Package(exported.package), "step1").states
    assert {(t.dtype.name, t.shape) for t in states.values()} == {("fp16", shape)}


# ---- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "int4", "pal4"])
def test_damaged_codes_change_the_result(scheme: Get, tmp_path: Path, precision: str) -> None:
    """What golden pictures see where hashes were made again: every flip of a weight is a result."""
    import shutil

    exported = scheme(precision)
    damaged = replace(exported, root=Path(shutil.copytree(exported.root, tmp_path / "copy")))
    file = damaged.package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(b ^ 0x77 for b in content[middle : middle + 64])
    file.write_bytes(content)
    try:
        found = damaged.run()
    except BundleError:  # a record's header was hit
        return
    assert not all((a == b).all() for a, b in zip(found, exported.run(), strict=True))
