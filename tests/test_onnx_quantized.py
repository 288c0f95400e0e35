"""Quantized ONNX graphs: the same codes as everywhere, and no patch that feels its neighbours.

Models of a test's size get floats when they are loaded; ``codes`` gives them what wide ones have,
products of codes, with a float cache or one of int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conftest import CONDITIONAL, GOLDEN, TRAINED, UNCONDITIONAL, VOLUME_PRESERVING

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import BlockWeights
from flowship.export.parity import check_block
from flowship.export.quantize.block_quantizer import BlockQuantizer
from flowship.export.quantize.data import PictureSet
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.matrix import QuantizedMatrix
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.reference import LayeredReference
from flowship.export.targets import TARGETS, TargetOptions
from flowship.export.targets.onnx import target as onnx_target
from flowship.export.targets.onnx.file import GraphFile as Graph
from flowship.export.targets.onnx.file import WeightsFile
from flowship.export.targets.onnx.quantized import add_matrix, quantized_matmul, rows_of, unpacked
from flowship.runtime import Bundle, UsageError
from flowship.runtime.decoder import Decoding
from flowship.runtime.encoder import encode_blocks
from flowship.runtime.engines import EngineOptions, find_engine
from flowship.runtime.engines.onnx_file import check_external_data
from flowship.runtime.engines.onnx_forms import CODES, CODES_INT8_CACHE, FLOATS
from flowship.runtime.engines.onnxruntime_import import import_onnxruntime
from flowship.runtime.guidance import Guidance
from flowship.runtime.hashing import sha256_of
from flowship.runtime.manifest import ArrayEntry, FileEntry, Golden, Manifest
from flowship.runtime.model import Model, to_block_order
from flowship.runtime.normal import normals
from flowship.runtime.plan import Plan

Floats = npt.NDArray[np.float32]
Quantize = Callable[[str, Floats], QuantizedMatrix | None]
ALL_FORMATS = TARGETS["onnx"].formats["mixed"]


def _in_format(name: str) -> Quantize:
    """Round the layers' matrices to nearest; the ends stay float."""

    def quantize(tensor: str, weight: Floats) -> QuantizedMatrix | None:
        if tensor.startswith("proj_") or weight.ndim != 2:
            return None
        return round_to_nearest(weight, FORMATS[name])

    return quantize


def _mixed(tensor: str, weight: Floats) -> QuantizedMatrix | None:
    """Attention in 8 bits, the MLP in 4, its last matrix in float."""
    if tensor.endswith("main.2.weight"):
        return None
    return _in_format("int8_g32" if "attention" in tensor else "int4_g128")(tensor, weight)


def _quantized(weights: BlockWeights, quantize: Quantize) -> BlockWeights:
    found = {name: quantize(name, array) for name, array in weights.network.items()}
    return replace(weights, quantized={name: q for name, q in found.items() if q is not None})


class Arithmetic(NamedTuple):
    codes: bool
    int8_cache: bool

    @property
    def form(self) -> str:
        return FLOATS if not self.codes else CODES_INT8_CACHE if self.int8_cache else CODES


ARITHMETICS = [Arithmetic(False, False), Arithmetic(True, False), Arithmetic(True, True)]


def _export(
    root: Path, checkpoint: Path, precision: str, quantize: Quantize, arithmetic: Arithmetic
) -> Bundle:
    """A bundle without measured quality, of one precision."""
    opened = Checkpoint.open(checkpoint)
    config = opened.config
    x = normals(0, 16 * config.num_patches * config.patch_dim)
    labels = tuple(i % config.num_classes if config.num_classes else None for i in range(16))
    noise = PictureSet(x.reshape(16, config.num_patches, -1), labels, "noise")
    quantizer = BlockQuantizer(opened, "rtn", noise, keep=False)
    spec, artifacts, arrays = opened.config.flow_spec(), [], {"var": opened.var()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_target, "WIDE", 0 if arithmetic.codes else 10**6)
        for stage in spec.ar_blocks:
            weights = _quantized(opened.block(stage.block), quantize)
            if arithmetic.int8_cache:
                weights = quantizer.with_cache_scales(stage, weights)
            arrays |= {f"{stage.name}.pos": weights.pos, f"{stage.name}.classes": weights.classes}
            artifacts += TARGETS["onnx"].export_block(
                root, opened.config, stage, weights, precision, TargetOptions()
            )
    (root / "arrays").mkdir()
    for name, array in arrays.items():
        (root / f"arrays/{name}.f32").write_bytes(array.astype("<f4").tobytes())
    paths = [path for path in root.rglob("*") if path.is_file()]
    manifest = Manifest(
        schema_version=1,
        flowship_version="0",
        name="quantized",
        spec=spec,
        source=opened.source,
        arrays={n: ArrayEntry(f"arrays/{n}.f32", a.shape) for n, a in arrays.items()},
        files={
            path.relative_to(root).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
            for path in paths
        },
        artifacts=tuple(artifacts),
        quality=(),
        golden=Golden(1, "0" * 64),
    )
    return Bundle(root, manifest)


PRECISIONS = {"int8": _in_format("int8_g128"), "int4": _in_format("int4_g128"), "mixed": _mixed}
Trained = Mapping[tuple[str, Arithmetic], Bundle]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The trained model in every precision and arithmetic."""
    return {
        (name, own): _export(tmp_path_factory.mktemp(name), TRAINED, name, quantize, own)
        for name, quantize in PRECISIONS.items()
        for own in ARITHMETICS
    }


@pytest.fixture(params=ARITHMETICS, ids=lambda own: own.form)
def arithmetic(request: pytest.FixtureRequest) -> Arithmetic:
    found: Arithmetic = request.param
    return found


@pytest.fixture(params=PRECISIONS)
def model(
    request: pytest.FixtureRequest, arithmetic: Arithmetic, trained: Trained
) -> Iterator[Model]:
    bundle = trained[request.param, arithmetic]
    engine = find_engine("onnx")(bundle, EngineOptions(request.param, threads=1))
    with closing(engine):
        yield Model(bundle, engine)


# ---- the same numbers as torch with the values that the codes stand for --------------------


@pytest.mark.parametrize("name", ALL_FORMATS)
@pytest.mark.parametrize("columns", [128, 192, 40])
@pytest.mark.parametrize("zero_points", [False, True])
def test_one_matrix(tmp_path: Path, name: str, columns: int, zero_points: bool) -> None:
    """Full and partial groups, with and without zero points, in every graph's form; its thirds."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((24, columns)).astype(np.float32)
    matrix = round_to_nearest(weight, FORMATS[name])
    if zero_points:
        assert matrix.scales is not None
        found = random.integers(-3, 4, matrix.scales.shape, np.int8)
        matrix = replace(matrix, zero_points=found)
    file = WeightsFile(tmp_path / "w.bin", "w.bin")
    packed = add_matrix(file, "w", matrix)
    part = rows_of(file, "w.1", "w", packed, packed.rows // 3, packed.rows // 3)
    bias = random.standard_normal(24).astype(np.float32)
    file.add("b", bias)
    file.close()
    g = Graph(file)
    x = g.input("x", onnx.TensorProto.FLOAT, ["M", columns])
    product = quantized_matmul(g, x, "w", packed, g.weight("b"))
    g.output(product, "y", onnx.TensorProto.FLOAT, ["M", 24])
    for name, once in (("at each call", False), ("once", True)):
        values = unpacked(g, "w", packed, once=once)
        g.output(values, name, onnx.TensorProto.FLOAT, [24, columns])
    g.output(unpacked(g, "w.1", part, once=True), "third", onnx.TensorProto.FLOAT, [8, columns])
    path = tmp_path / "m.onnx"
    path.write_bytes(g.model("g", 21).SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    onnxruntime = import_onnxruntime("this test")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = random.standard_normal((8, columns)).astype(np.float32)
    y, each, once_, third = session.run(None, {"x": given})
    wanted = matrix.dequantized()
    for found in (each, once_):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(third, wanted[8:16])
    wanted = given @ wanted.T + bias
    assert np.abs(y - wanted).max() <= 0.015 * np.abs(wanted).max()  # activations in 8 bits


@pytest.mark.parametrize("checkpoint", [CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_blocks_against_torch(
    tmp_path: Path, checkpoint: str, precision: str, arithmetic: Arithmetic
) -> None:
    """Windows, both branches and gradients, against the values that the codes stand for."""
    path = GOLDEN / f"{checkpoint}.pth"
    quantize = _in_format(TARGETS["onnx"].formats[precision][0])
    bundle = _export(tmp_path, path, precision, quantize, arithmetic)
    opened = Checkpoint.open(path)
    block = bundle.spec.ar_blocks[0]
    weights = _quantized(opened.block(block.block), quantize)
    found = check_block(
        lambda: find_engine("onnx")(bundle, EngineOptions(precision, threads=1)),
        LayeredReference(opened.config, block, weights),
        patches=bundle.spec.image.num_patches,
        at_once=True,
        denoise=True,
        seed=0,
    )
    # activations or a cache in 8 bits: 0.01 to 0.05 measured
    assert found.max_abs_error < (0.1 if any(arithmetic) else 1e-5)
    assert found.gradient_error is not None and found.gradient_error < 1e-4  # they are float32


# ---- no patch feels its neighbours --------------------


@pytest.mark.parametrize("branches", [1, 2])
def test_every_window_gives_the_same_bits(
    model: Model, arithmetic: Arithmetic, branches: int
) -> None:
    """A patch's parameters, in windows of every length, at the end of the cache too.

    With codes; floats have one kernel for a single row and another one for more.
    """
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    x = normals(3, T * D).reshape(1, T, D)
    guidance = Guidance(2.0) if branches == 2 else Guidance()
    with model.stage(spec.ar_blocks[0], [0], guidance) as stage:
        whole = np.concatenate(stage.step(x, 0), -1).copy()
        for window in (1, 2, 3, 4, 5, 8, 16, 31):
            for position in range(0, T, window):
                part = x[:, position : position + window]
                found = np.concatenate(stage.step(np.ascontiguousarray(part), position), -1)
                np.testing.assert_allclose(
                    found,
                    whole[:, :, position : position + window],
                    atol=0 if arithmetic.codes else 5e-6,
                    rtol=0,
                    err_msg=f"{window} at {position}",
                )


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0)])
def test_windows_and_company_change_nothing(model: Model, guidance: Guidance) -> None:
    """Pictures in windows, and several at once, against one by one with W = 1."""
    T, D = model.bundle.spec.latents[0].shape
    z = normals(11, 2 * T * D).reshape(2, T, D)
    blocks = [block.name for block in model.bundle.spec.ar_blocks]

    def pictures(z: Floats, window: int) -> Floats:
        windows = dict.fromkeys(blocks, window)
        decoding = Decoding(model, z, [7] * len(z), guidance, Plan(windows, windows))
        for _ in decoding.run():
            pass
        found: Floats = decoding.state
        return found

    alone = np.concatenate([pictures(z[i : i + 1], 1) for i in range(2)])
    np.testing.assert_array_equal(pictures(z, 1), alone)
    for window in (3, 8):
        codes = [np.rint(127.5 * (1 + np.clip(p, -1, 1))) for p in (pictures(z, window), alone)]
        off = np.abs(codes[0] - codes[1])
        assert off.max() <= 1 and (off == 0).mean() >= 0.999


def test_latents_come_back(model: Model) -> None:
    """Decoding in steps and encoding in one call, through all blocks."""
    T, D = model.bundle.spec.latents[0].shape
    z = normals(5, T * D).reshape(1, T, D)
    decoding = Decoding(model, z, [3], Guidance(), Plan())
    for _ in decoding.run():
        pass
    *_, last = encode_blocks(model, decoding.state, [3])
    # The block next to the image sees the very patches that it made, the others see theirs after
    # rounding, which moves some activations to the next of their 255 steps: 0.03 measured.
    moved = np.abs(to_block_order(last.z, last.block) - z)
    assert moved.max() < 0.3


# ---- files --------------------


def test_sizes_and_external_data(trained: Trained) -> None:
    limits = {"int8": 0.30, "mixed": 0.55, "int4": 0.20}  # of float32
    single = 4 * Checkpoint.open(TRAINED).num_parameters
    for (precision, arithmetic), bundle in trained.items():
        files = bundle.manifest.files
        total = sum(entry.bytes for path, entry in files.items() if path.startswith("onnx/"))
        assert total <= limits[precision] * single, (precision, total / single)
        for artifact in bundle.manifest.artifacts:
            assert artifact.role == "vjp" or artifact.form == arithmetic.form
            names = [Path(file).name for file in artifact.files]
            check_external_data(bundle.artifact_path(artifact), names)


@pytest.mark.parametrize(
    ("precision", "format", "form", "message"),
    [
        ("int4", "pal4", "gqa", r"onnx int4 cannot store attn_blocks.*as pal4: choose from int4_g"),
        ("int8", "int4_g32", "gqa", r"onnx int8 cannot store .*choose from int8_g128"),
        ("fp32", "int8_g32", "gqa", r"choose from the precisions int8, int4 and mixed"),
        ("int3", "int8_g32", "gqa", r"onnx has no precision 'int3': choose from fp32"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, precision: str, format: str, form: str, message: str
) -> None:
    opened = Checkpoint.open(GOLDEN / f"{UNCONDITIONAL}.pth")
    stage = opened.config.flow_spec().ar_blocks[0]
    weights = _quantized(opened.block(stage.block), _in_format(format))
    options = TargetOptions(onnx_form="core" if form == "core" else "gqa")
    with pytest.raises(UsageError, match=message):
        TARGETS["onnx"].export_block(tmp_path, opened.config, stage, weights, precision, options)
    assert not list(tmp_path.rglob("*.onnx"))


Value = TypeVar("Value")


class _Asked(Mapping[str, Value]):
    """Arrays that are made when asked for; remembers what was."""

    def __init__(self, arrays: Mapping[str, Value]) -> None:
        self.arrays, self.names = arrays, list[str]()

    def __getitem__(self, name: str) -> Value:
        self.names.append(name)
        return self.arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def test_matrices_are_asked_for_once(tmp_path: Path) -> None:
    """A block larger than memory can be made, quantized and written matrix by matrix."""
    opened = Checkpoint.open(GOLDEN / f"{UNCONDITIONAL}.pth")
    stage = opened.config.flow_spec().ar_blocks[0]
    weights = _quantized(opened.block(stage.block), _in_format("int4_g32"))
    network, quantized = _Asked(weights.network), _Asked(weights.quantized)
    lazy = replace(weights, network=network, quantized=quantized)
    TARGETS["onnx"].export_block(tmp_path, opened.config, stage, lazy, "int4", TargetOptions())
    assert sorted(network.names + quantized.names) == sorted(weights.network)
