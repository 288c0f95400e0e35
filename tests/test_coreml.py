"""Core ML: packages against the float32 torch block, the interpreter against coremltools."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from flowship.export.checkpoint import Checkpoint
from flowship.export.families.tarflow import BlockWeights, TarFlowBlock, TarFlowConfig
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.coreml import CoreMLTarget, _ProgramBuilder
from flowship.runtime.engines.base import ARStage, EngineOptions
from flowship.runtime.engines.coreml import CoreMLEngine, check_system, open_coreml
from flowship.runtime.engines.coreml_interpreter import InterpreterEngine
from flowship.runtime.engines.coreml_stage import MASKED, cache_rows, causal_mask, function_name
from flowship.runtime.engines.coremltools_import import import_coremltools
from flowship.runtime.engines.mil import OPS, Executable, Package
from flowship.runtime.engines.mil.ops.elementwise import erf
from flowship.runtime.engines.mil.types import DTYPES, unpack_bits
from flowship.runtime.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    FlowshipError,
    MissingExtraError,
    UsageError,
)
from flowship.runtime.manifest import Artifact, FileEntry
from flowship.runtime.spec import ARBlock, TrainingNoise

Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
COND = GOLDEN / "tiny_cond_model_4_128_3_2_0.05.pth"
UNCOND = GOLDEN / "tiny_uncond_model_2_64_2_1_0.10.pth"
EMBEDDED = ROOT / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"

# Every result is rounded to float16 (relative 2^-11 = 4.9e-4), about ten times in each layer and on
# a residual stream that all layers share. Measured: at most 1.6e-3 of the largest value.
HALF_ERROR = 3e-3


@dataclass(frozen=True)
class Exported:
    """A block, its package, and the bundle that an engine sees around them."""

    root: Path
    config: TarFlowConfig
    stage: ARBlock
    weights: BlockWeights
    artifacts: list[Artifact]

    @property
    def package(self) -> Path:
        return self.root / self.artifacts[0].path

    @property
    def bundle(self) -> Any:
        """What an engine uses of a Bundle."""
        files = {f: FileEntry((self.root / f).stat().st_size, "") for f in self.artifacts[0].files}

        def find(*wanted: object) -> tuple[Artifact, ...]:
            engine, precision, role, stage, branches = wanted
            return tuple(
                a
                for a in self.artifacts
                if (a.engine, a.precision, a.role, a.stage, a.branches)
                == (engine, precision, role, stage, branches)
            )

        manifest = SimpleNamespace(
            name="test",
            artifacts=self.artifacts,
            files=files,
            find=find,
            precisions={"coreml": ("fp16",)},
        )
        return SimpleNamespace(manifest=manifest, artifact_path=lambda a: self.root / a.path)

    def random_patches(self, seed: int) -> Floats:
        """[1, T, D]"""
        shape = (1, self.config.num_patches, self.config.patch_dim)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def class_rows(self, *labels: int) -> Floats:
        """[branches, 1, C]"""
        return self.weights.classes[list(labels)][:, None]

    def expected(
        self, x: Floats, classes: Floats, q_scale: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The float32 torch block on the whole sequence: (xa, xb), each [branches, T, D]."""
        context = torch.from_numpy(self.weights.pos[None] + classes)
        repeated = torch.from_numpy(x).expand(len(classes), -1, -1)
        scale = None if q_scale is None else torch.from_numpy(q_scale)
        xa, xb, _ = self.weights.module(self.config)(repeated, context, q_scale=scale)
        return xa.numpy(), xb.numpy()


def export(
    root: Path, config: TarFlowConfig, block: int, weights: BlockWeights, **options: Any
) -> Exported:
    stage = next(s for s in config.flow_spec().ar_blocks if s.block == block)
    choices = TargetOptions(**options)
    artifacts = CoreMLTarget().export_block(root, config, stage, weights, "fp16", choices)
    return Exported(root, config, stage, weights, artifacts)


def random_block(seed: int, **changes: Any) -> tuple[TarFlowConfig, BlockWeights]:
    """A well-scaled block of a small model."""
    config = TarFlowConfig(
        in_channels=1,
        img_size=12,
        patch_size=2,
        channels=64,
        num_blocks=1,
        layers_per_block=2,
        num_classes=3,
        nvp=True,
        head_dim=32,
        expansion=2,
        noise=TrainingNoise("unknown"),
    )
    config = replace(config, **changes)
    rng = np.random.default_rng(seed)

    def values(name: str, shape: tuple[int, ...]) -> Floats:
        mean = 1 if name.endswith("norm.weight") else 0
        std = shape[1] ** -0.5 if len(shape) == 2 else 0.1
        return rng.normal(mean, std, shape).astype(np.float32)

    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in TarFlowBlock(config).state_dict().items()}
    network = {name: values(name, shape) for name, shape in shapes.items()}
    pos = values("pos", (config.num_patches, config.channels))
    return config, BlockWeights(network, pos, values("classes", (4, config.channels)))


def run_all(
    stage: ARStage,
    exported: Exported,
    x: Floats,
    classes: Floats,
    window: int,
    q_scale: tuple[float, ...] = (1, 1),
) -> tuple[Floats, Floats]:
    """The whole sequence in windows of one length: (xa, xb), each [branches, T, D]."""
    scale = np.array(q_scale[: len(classes)], np.float32)
    stage.begin(exported.weights.pos, classes, scale)
    T = x.shape[1]
    parts = []
    for start in range(0, T, window):
        xa, xb = stage.step(x[:, start : start + window], start)
        assert xa.dtype == xb.dtype == np.float32
        parts.append((xa[:, 0], xb[:, 0]))
    return tuple(np.concatenate(p, 1) for p in zip(*parts, strict=True))  # type: ignore[return-value]


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def interpreted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path, int], Exported]:
    """Exports blocks of checkpoints, each once."""
    done: dict[tuple[Path, int], Exported] = {}

    def get(path: Path, block: int) -> Exported:
        if (path, block) not in done:
            checkpoint = Checkpoint.open(path)
            root = tmp_path_factory.mktemp(f"{path.stem}-{block}")
            weights = checkpoint.block(block)
            done[path, block] = export(root, checkpoint.config, block, weights)
        return done[path, block]

    return get


def interpreter(exported: Exported) -> InterpreterEngine:
    return InterpreterEngine(exported.bundle, EngineOptions("fp16"))


BLOCKS = [(COND, 0), (COND, 1), (COND, 2), (UNCOND, 0), (UNCOND, 1), (EMBEDDED, 3)]


# ---- packages against torch ---------------------------------------------------------------------


@pytest.mark.parametrize(("path", "block"), BLOCKS, ids=lambda v: getattr(v, "stem", v))
def test_package_is_the_torch_block(
    interpreted: Callable[[Path, int], Exported], path: Path, block: int
) -> None:
    exported = interpreted(path, block)
    x, classes = exported.random_patches(1), exported.class_rows(0)
    stage = interpreter(exported).open(exported.stage)
    found = run_all(stage, exported, x, classes, exported.config.num_patches)
    for got, want in zip(found, exported.expected(x, classes), strict=True):
        assert relative_error(got, want) < HALF_ERROR
    for got, want in zip(run_all(stage, exported, x, classes, 1), found, strict=True):
        assert relative_error(got, want) < HALF_ERROR / 2  # same graph, other summation order


def test_guidance_branches_and_query_scale(interpreted: Callable[[Path, int], Exported]) -> None:
    exported = interpreted(COND, 1)
    x, classes = exported.random_patches(2), exported.class_rows(3, -1)
    scale = np.array([1, 1 / 0.7], np.float32)
    stage = interpreter(exported).open(exported.stage, branches=2, scaled_queries=True)
    found = run_all(stage, exported, x, classes, 8, (1, 1 / 0.7))
    expected = exported.expected(x, classes, scale)
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape and relative_error(got, want) < HALF_ERROR
    without = exported.expected(x, classes)
    assert relative_error(without[0], expected[0]) > 10 * HALF_ERROR  # the scale does something


@pytest.mark.parametrize("nvp", [True, False])
def test_other_shapes(tmp_path: Path, nvp: bool) -> None:
    """36 patches (no multiple of 32), a window menu that does not divide them, without xa."""
    exported = export(tmp_path, *with_block(random_block(3, nvp=nvp)), windows=(5, 12))
    assert exported.artifacts[0].windows == (1, 5, 12)
    x, classes = exported.random_patches(4), exported.class_rows(1)
    stage = interpreter(exported).open(exported.stage)
    assert stage.windows == (1, 5, 12)
    found = run_all(stage, exported, x, classes, 19)  # 12 + 5 + 1 + 1, then 17 = 12 + 5
    expected = exported.expected(x, classes)
    assert relative_error(found[1], expected[1]) < HALF_ERROR
    if nvp:
        assert relative_error(found[0], expected[0]) < HALF_ERROR
    else:
        assert not found[0].any()
        assert set(Executable(Package(exported.package), "step1").outputs) == {"xb"}


def with_block(made: tuple[TarFlowConfig, BlockWeights]) -> tuple[TarFlowConfig, int, BlockWeights]:
    return made[0], 0, made[1]


def test_steps_overwrite_and_ignore_later_rows(
    interpreted: Callable[[Path, int], Exported],
) -> None:
    """A window of wrong guesses leaves no trace once its rows are written again."""
    exported = interpreted(COND, 2)
    x, classes = exported.random_patches(5), exported.class_rows(2)
    stage: Any = interpreter(exported).open(exported.stage)
    clean = run_all(stage, exported, x, classes, 1)
    stage.begin(exported.weights.pos, classes, np.ones(1, np.float32))
    for position in range(x.shape[1]):
        if position <= 8:
            stage.step(np.full((1, 8, x.shape[2]), 1e3, np.float32), position)
        for name, cache in stage._runner.state.items():
            cache = cache.copy()
            cache[:, :, position:] = 100.0 if name.startswith("k") else -6e4
            stage._runner.state[name] = cache
        xa, xb = stage.step(x[:, position : position + 1], position)
        assert (xa[0, :, 0] == clean[0][:, position]).all()
        assert (xb[0, :, 0] == clean[1][:, position]).all()


def test_package_contents(interpreted: Callable[[Path, int], Exported], tmp_path: Path) -> None:
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


def test_coremltools_reads_the_package(interpreted: Callable[[Path, int], Exported]) -> None:
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


def test_coremltools_has_nothing_to_change(
    interpreted: Callable[[Path, int], Exported], tmp_path: Path
) -> None:
    """The program is written without coremltools' passes; run over it, they only reorder it."""
    exported, ct = interpreted(COND, 1), coremltools()
    builder = _ProgramBuilder(exported.config, exported.weights, "slice")
    builder.write_package(tmp_path / "ours.mlpackage", (1, 8))
    convert = import_coremltools("a test", ".converters.mil.converter").mil_convert
    with third_party_noise_off():
        convert(
            builder._program((1, 8)),
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


def test_refused(interpreted: Callable[[Path, int], Exported], tmp_path: Path) -> None:
    config, weights = random_block(6)
    stage = config.flow_spec().ar_blocks[0]
    with pytest.raises(UsageError, match=r"coreml has no precision 'fp32'.*float16 only"):
        CoreMLTarget().export_block(tmp_path, config, stage, weights, "fp32", TargetOptions())
    weights.network["proj_in.bias"][0] = 1e5
    with pytest.raises(CheckpointError, match=r"proj_in.bias has a value of magnitude 100000"):
        export(tmp_path, config, 0, weights)
    exported = interpreted(UNCOND, 0)
    engine = interpreter(exported)
    with pytest.raises(EngineError, match="no denoise graph: use --engine onnx or executorch"):
        engine.open_vjp(exported.stage)
    with pytest.raises(EngineError, match="one picture at a time, not 2"):
        engine.open(exported.stage, num_images=2)
    with pytest.raises(EngineError, match=r"no Core ML step of block9.*export it with --targets"):
        engine.open(replace(exported.stage, name="block9"))
    with pytest.raises(EngineError, match=r"a query scale of 2.0 needs a stage opened with"):
        scale = np.array([2], np.float32)
        engine.open(exported.stage).begin(exported.weights.pos, exported.class_rows(0), scale)
    with pytest.raises(UsageError, match="no device 'gpu'"):
        InterpreterEngine(exported.bundle, EngineOptions("fp16", device="gpu"))


def test_mask() -> None:
    mask = causal_mask(3, 2, 8)
    assert mask.shape == (1, 1, 2, 8) and mask.dtype == np.float32
    assert (mask[0, 0] == 0).sum(1).tolist() == [4, 5] and mask.min() == MASKED
    assert np.isfinite(np.float16(2 * MASKED))
    assert [cache_rows(t) for t in (1, 32, 49, 1024)] == [32, 32, 64, 1024]


# ---- Core ML on a Mac, against a stand-in --------------------------------------------------------


class _ComputeUnit(Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class _StandIn:
    """The calls of coremltools that the engine makes, in front of the interpreter."""

    __version__ = "9.0"
    ComputeUnit = _ComputeUnit

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.loaded: list[str] = []
        utils = SimpleNamespace(compile_model=self.compile_model)
        self.models = SimpleNamespace(utils=utils, CompiledMLModel=self.load)

    def compile_model(self, model: str, destination_path: str) -> str:
        assert isinstance(model, str) and model.endswith(".mlpackage")
        assert destination_path.endswith(".mlmodelc") and not Path(destination_path).exists()
        self.compiled.append(shutil.copytree(model, destination_path))
        return destination_path

    def load(self, path: str, compute_units: _ComputeUnit, function_name: str) -> _LoadedStandIn:
        assert path in self.compiled and compute_units is _ComputeUnit.CPU_AND_GPU
        self.loaded.append(function_name)
        return _LoadedStandIn(Executable(Package(path), function_name))


class _LoadedStandIn:
    def __init__(self, executable: Executable) -> None:
        self.executable = executable

    def make_state(self) -> dict[str, Any]:
        return self.executable.make_state()

    def predict(self, data: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        for name, kind in self.executable.inputs.items():
            assert data[name].dtype == kind.dtype.storage and data[name].flags.c_contiguous
        return self.executable.run(data, state)


@pytest.mark.parametrize("branches", [1, 2])
def test_macos_engine_makes_the_right_calls(
    interpreted: Callable[[Path, int], Exported], branches: int
) -> None:
    exported, stand_in = interpreted(UNCOND, 1), _StandIn()
    x, classes = exported.random_patches(7), exported.class_rows(*[0] * branches)
    engine = CoreMLEngine(exported.bundle, EngineOptions("fp16", device="gpu"), stand_in)
    assert (engine.info.name, engine.info.device) == ("coreml", "gpu")
    for _ in range(2):
        stage = engine.open(exported.stage, branches=branches)
        found = run_all(stage, exported, x, classes, 9)  # 8 + 1
        stage.close()
        with pytest.raises(EngineError, match="the stage is closed"):
            stage.step(x[:, :1], 0)
    expected = run_all(
        interpreter(exported).open(exported.stage, branches=branches), exported, x, classes, 9
    )
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert len(stand_in.compiled) == 1  # once for both pictures
    assert sorted(stand_in.loaded) == [function_name(branches, w) for w in (1, 8)]
    engine.close()
    assert not Path(stand_in.compiled[0]).exists()


def test_macos_engine_refuses(interpreted: Callable[[Path, int], Exported]) -> None:
    exported = interpreted(UNCOND, 1)
    with pytest.raises(UsageError, match="no device 'cuda': choose from cpu, gpu, ane, all"):
        CoreMLEngine(exported.bundle, EngineOptions("fp16", device="cuda"), _StandIn())
    with pytest.raises(EngineError, match=r"macOS only; use --engine coreml-interpreter to check"):
        check_system("linux", "")
    with pytest.raises(EngineError, match=r"need macOS 15, this is 14\.5"):
        check_system("darwin", "14.5")
    check_system("darwin", "15.1")
    if sys.platform != "darwin":
        with pytest.raises(EngineError, match="macOS only"):
            open_coreml(exported.bundle, EngineOptions("fp16"))
    broken = _StandIn()
    broken.models.utils.compile_model = lambda *_: (_ for _ in ()).throw(RuntimeError("no disk"))
    engine = CoreMLEngine(exported.bundle, EngineOptions("fp16"), broken)
    with pytest.raises(EngineError, match=r"Core ML cannot compile .*block1.mlpackage: no disk"):
        engine.open(exported.stage)
    engine.close()


def test_missing_coremltools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[coreml\]'"):
        import_coremltools("the engine coreml")


def test_interpreter_needs_numpy_only() -> None:
    code = (
        "import sys; import flowship.runtime.engines.coreml_interpreter; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'coremltools', 'google.protobuf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- packages that flowship did not make ---------------------------------------------------------


def coremltools() -> Any:
    return import_coremltools("a test")


@contextmanager
def third_party_noise_off() -> Iterator[None]:
    """Conversion warns about versions and deprecations inside torch and coremltools, and logs."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


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


# ---- operators ----------------------------------------------------------------------------------


def test_erf() -> None:
    x = np.concatenate([np.linspace(-6, 6, 4001), [0.0, -0.0, np.inf, -np.inf]]).astype(np.float32)
    exact = np.array([math.erf(v) for v in x])
    assert np.abs(erf(x) - exact).max() < 6e-8  # half a float32 step at 1
    assert np.isnan(erf(np.array([np.nan], np.float32)))[0]


@pytest.mark.parametrize("name", ["int4", "uint1", "uint2", "uint3", "uint4", "uint6"])
def test_unpack_bits(name: str) -> None:
    dtype = next(d for d in DTYPES.values() if d.name == name)
    bits = dtype.bits
    low = -(1 << bits - 1) if name.startswith("int") else 0
    values = [low + i % (1 << bits) for i in range(37)]
    number = sum((v % (1 << bits)) << (i * bits) for i, v in enumerate(values))
    packed = np.frombuffer(number.to_bytes(dtype.nbytes(37), "little"), np.uint8)
    assert unpack_bits(packed, 37, dtype).tolist() == values


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "groups": 2},
    {"padding": "same"},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2])
def test_conv(options: dict[str, Any], dims: int) -> None:
    torch.manual_seed(dims)
    groups = options.get("groups", 1)
    x, weight = torch.randn(2, 4, *[9] * dims), torch.randn(6, 4 // groups, *[3] * dims)
    bias = torch.randn(6)
    function = nn.functional.conv1d if dims == 1 else nn.functional.conv2d
    expected = function(x, weight, bias, **options).numpy()
    padding = options.get("padding", 0)
    arguments: dict[str, Any] = {"pad_type": "same"} if padding == "same" else {}
    if isinstance(padding, int) and padding:
        arguments = {"pad_type": "custom", "pad": np.full(2 * dims, padding)}
    found = OPS["conv"].run(
        x.numpy(),
        weight.numpy(),
        bias.numpy(),
        strides=np.full(dims, options.get("stride", 1)),
        dilations=np.full(dims, options.get("dilation", 1)),
        groups=np.array(groups),
        **arguments,
    )
    assert np.abs(found - expected).max() < 1e-5


def test_operators_on_indices() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    first, last = np.array([0, 1, 0]), np.array([2, 3, 4])
    assert (OPS["slice_by_index"].run(x, first, last) == x[0:2, 1:3]).all()
    single = np.array([False, True, False])
    assert (OPS["slice_by_index"].run(x, first, last, squeeze_mask=single) == x[:, 1]).all()
    assert (OPS["slice_by_size"].run(x, first, np.array([1, 2, -1])) == x[0:1, 1:3]).all()
    with pytest.raises(ValueError, match="leaves the tensor"):
        OPS["slice_by_size"].run(x, first, np.array([1, 3, -1]))
    with pytest.raises(ValueError, match="the slice has the shape"):
        OPS["slice_update"].run(x, np.zeros((2, 3, 4), np.float32), first, last)
    table = np.array([2, -1])
    assert (OPS["gather"].run(x, table, np.array(1)) == x[:, [2, -1]]).all()
    updates = np.ones((2, 2, 4), np.float32)
    added = OPS["scatter"].run(x, np.array([0, 0]), updates, np.array(1), "add")
    assert (added[:, 0] == x[:, 0] + 2).all() and (added[:, 1:] == x[:, 1:]).all()
    assert (OPS["band_part"].run(np.ones((3, 3)), np.array(-1), np.array(0)) == np.tri(3)).all()
    assert OPS["tile"].run(x, np.array([1, 2, 1])).shape == (2, 6, 4)
    with pytest.raises(ValueError, match="is larger than"):
        OPS["tile"].run(x, np.array([1 << 20, 1 << 20, 1]))
    with pytest.raises(ValueError, match="is larger than"):
        OPS["fill"].run(np.array([1 << 20, 1 << 20]), np.float32(0))
    with pytest.raises(ValueError, match="is larger than"):
        OPS["range_1d"].run(np.float64(0), np.float64(1e12), np.float64(1))


# ---- hostile packages ----------------------------------------------------------------------------


@pytest.fixture
def victim(interpreted: Callable[[Path, int], Exported], tmp_path: Path) -> Path:
    """A copy of a good package, to be damaged."""
    return Path(shutil.copytree(interpreted(UNCOND, 0).package, tmp_path / "victim.mlpackage"))


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def edit_program(package: Path, edit: Callable[[Any], None]) -> None:
    """Change the function step1 (a MIL_pb2.Function message)."""
    proto = coremltools().proto.Model_pb2.Model()
    proto.ParseFromString(model_file(package).read_bytes())
    edit(proto.mlProgram.functions["step1"])
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
