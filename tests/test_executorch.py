"""ExecuTorch programs and engine against the float32 torch module, through both runtimes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("executorch")

from flowship.export.families.tarflow import (
    BlockWeights,
    TarFlowBlock,
    TarFlowConfig,
    block_weights,
    infer_config,
)
from flowship.export.options import ConfigOverrides
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.matrix import QuantizedMatrix
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.executorch import ExecuTorchTarget, stored
from flowship.export.targets.executorch.quantized import layout_of
from flowship.export.targets.executorch.template import ProgramTemplate, stand_ins
from flowship.runtime.engines import executorch_program
from flowship.runtime.engines.base import ARStage, EngineOptions
from flowship.runtime.engines.executorch import ExecuTorchEngine, open_executorch
from flowship.runtime.engines.executorch_shim import build
from flowship.runtime.errors import BundleError, EngineError, MissingExtraError, UsageError
from flowship.runtime.manifest import Artifact, FileEntry, Manifest
from flowship.runtime.spec import ARBlock, TrainingNoise

GOLDEN = Path(__file__).parent / "golden"
HAS_COMPILER = bool(shutil.which("g++") or shutil.which("clang++"))
# float32: the error of sums in another order, 2e-7 measured; a wrong mask or row gives 1e-2.
# mixed: activations of 8 bits under the 4-bit matrices, 1/510 of a row's range; 4e-3 measured.
# fp16: of the largest value; 11 bits are 5e-4, 4e-4 measured, 3.4e-3 where the processor also adds
# up in fp16.
TOLERANCE = {"fp32": 5e-6, "fp16": 5e-3, "mixed": 1e-2}
GRADIENT_TOLERANCE = {"fp32": 5e-6, "fp16": 1e-2}  # of the largest value; 7e-7 and 9e-4 measured


@dataclass
class Exported:
    """A block's program, the weights it was made from, and what an engine asks of a bundle."""

    root: Path
    config: TarFlowConfig
    block: ARBlock
    weights: BlockWeights
    artifacts: tuple[Artifact, ...]

    @property
    def precision(self) -> str:
        return self.artifacts[0].precision

    @property
    def path(self) -> Path:
        return self.root / self.artifacts[0].path

    def engine(self, threads: int | None = 1, device: str = "cpu") -> ExecuTorchEngine:
        manifest: Any = SimpleNamespace(
            artifacts=self.artifacts,
            spec=self.config.flow_spec(),
            files={
                a.path: FileEntry((self.root / a.path).stat().st_size, "") for a in self.artifacts
            },
        )
        manifest.find = lambda *wanted: Manifest.find(manifest, *wanted)
        bundle: Any = SimpleNamespace(
            manifest=manifest, artifact_path=lambda artifact: self.root / artifact.path
        )
        engine = open_executorch(bundle, EngineOptions(self.precision, device, threads))
        assert isinstance(engine, ExecuTorchEngine)
        return engine


def golden(name: str) -> tuple[TarFlowConfig, dict[str, np.ndarray]]:
    state = torch.load(GOLDEN / name, weights_only=True)
    tensors = {n: t.numpy() for n, t in state.items() if not n.endswith("attn_mask")}
    shapes = {n: t.shape for n, t in tensors.items()}
    return infer_config(shapes, name, ConfigOverrides()), tensors


def golden_block(tensors: dict[str, np.ndarray], block: int) -> BlockWeights:
    prefix = f"blocks.{block}."
    return block_weights({n: a for n, a in tensors.items() if n.startswith(prefix)}, block)


def without_nvp() -> tuple[TarFlowConfig, BlockWeights]:
    """A volume-preserving block whose biases are all zero, and so equal in their bytes."""
    config = TarFlowConfig(1, 6, 2, 64, 1, 1, 0, False, 32, 2, TrainingNoise("gaussian", 0.1))
    torch.manual_seed(0)
    module = TarFlowBlock(config)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    network = {n: p.detach().numpy() for n, p in module.named_parameters()}
    rng = np.random.default_rng(0)
    pos = rng.standard_normal((config.num_patches, config.channels), np.float32)
    return config, BlockWeights(network, pos, np.zeros((1, config.channels), np.float32))


def quantized(weights: BlockWeights) -> BlockWeights:
    """One matrix of each kind that a program can hold, and one that stays float."""
    formats = {"attention.qkv": "int8", "attention.proj": "int4_g32", "mlp.main.2": "int4_g32"}
    matrices = {
        f"attn_blocks.0.{name}.weight": round_to_nearest(
            weights.network[f"attn_blocks.0.{name}.weight"], FORMATS[format]
        )
        for name, format in formats.items()
    }
    return replace(weights, quantized=matrices)


def export(
    root: Path,
    config: TarFlowConfig,
    weights: BlockWeights,
    block: int,
    precision: str,
    **options: Any,
) -> Exported:
    stage = next(s for s in config.flow_spec().ar_blocks if s.block == block)
    found = ExecuTorchTarget().export_block(
        root, config, stage, weights, precision, TargetOptions(**options)
    )
    return Exported(root, config, stage, weights, tuple(found))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Lowered once, 12 methods: dynamic and static windows, quantized ones, fp16 without nvp."""
    root = tmp_path_factory.mktemp("programs")
    config, tensors = golden("tiny_cond_model_4_128_3_2_0.05.pth")
    found = {}
    for b in (0, 1):  # from one template
        weights = golden_block(tensors, b)
        found[f"dynamic{b}"] = export(root, config, weights, b, "fp32")
    config, tensors = golden("tiny_uncond_model_2_64_2_1_0.10.pth")
    weights = golden_block(tensors, 1)
    options = {"windows": (1, 4), "denoise": False, "executorch_dynamic": False}
    found["static"] = export(root / "static", config, weights, 1, "fp32", **options)
    for b in (0, 1):
        weights = quantized(golden_block(tensors, b))
        found[f"mixed{b}"] = export(root, config, weights, b, "mixed")
    config, weights = without_nvp()
    options = {"windows": (1,), "executorch_dynamic": False}
    found["fp16"] = export(root / "fp16", config, weights, 0, "fp16", **options)
    return found


@pytest.fixture(scope="module")
def shim_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        if HAS_COMPILER:
            build.build()
    return cache


@pytest.fixture(params=["shim", "python"])
def runtime(
    request: pytest.FixtureRequest,
    shim_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Runs a test with each of the two runtimes."""
    if request.param == "shim" and not HAS_COMPILER:
        pytest.skip("no C++ compiler")
    cache = shim_cache if request.param == "shim" else tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    yield request.param


# ---- helpers -------------------------------------------------------------------------------------


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def reference(
    exported: Exported, x: np.ndarray, class_row: np.ndarray, q_scale: float = 1.0
) -> np.ndarray:
    """[2, T, D]: xa and xb of the float32 torch module over the whole sequence."""
    module = exported.weights.dequantized().module(exported.config)
    context = torch.from_numpy(exported.weights.pos + class_row)[None]
    with torch.no_grad():
        xa, xb, _ = module(torch.from_numpy(x)[None], context, None, torch.tensor([q_scale]))
    return torch.cat([xa, xb]).numpy()


def begin(stage: ARStage, exported: Exported, q_scale: float | None = None) -> None:
    """One branch of class row 0, or two: class row 0, and the mean with scaled queries."""
    classes = exported.weights.classes
    if q_scale is None:
        stage.begin(exported.weights.pos, classes[:1][None], np.ones(1, np.float32))
    else:
        rows = np.stack([classes[0], classes[-1]])[:, None]
        stage.begin(exported.weights.pos, rows, np.array([1, q_scale], np.float32))


def run(stage: ARStage, x: np.ndarray, window: int) -> np.ndarray:
    """[branches, 2, T, D] through windows of one length."""
    parts = []
    for position in range(0, len(x), window):
        xa, xb = stage.step(x[None, position : position + window], position)
        parts.append(np.stack([xa[:, 0], xb[:, 0]], 1))
    return np.concatenate(parts, 2)


def spoil(stage: ARStage, exported: Exported) -> None:
    """Overwrite every row of the cache with wrong values, so that none is right by chance."""
    D = exported.config.patch_dim
    for position in range(exported.config.num_patches):
        stage.step(np.full((1, 1, D), 3.0, np.float32), position)


# ---- parity --------------------------------------------------------------------------------------


def assert_close(
    found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], precision: str
) -> None:
    largest = float(np.abs(wanted).max()) if precision == "fp16" else 1.0
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE[precision] * largest, rtol=0)


@pytest.mark.parametrize("name", ["dynamic0", "dynamic1", "static", "mixed0", "mixed1", "fp16"])
@pytest.mark.parametrize("window", [1, 4, 5, None])
def test_step_matches_torch(
    programs: dict[str, Exported], runtime: str, name: str, window: int | None
) -> None:
    exported = programs[name]
    x = noise(1, exported.config.num_patches, exported.config.patch_dim)
    engine = exported.engine()
    stage = engine.open(exported.block)
    begin(stage, exported)
    spoil(stage, exported)
    found = run(stage, x, window or len(x))[0]
    again = run(stage, x, window or len(x))[0]
    stage.close()
    engine.close()
    wanted = reference(exported, x, exported.weights.classes[0])
    assert_close(found, wanted, exported.precision)
    assert found.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", ["dynamic1", "static", "mixed1", "fp16"])
def test_guided_is_two_passes(programs: dict[str, Exported], runtime: str, name: str) -> None:
    exported = programs[name]
    x = noise(2, exported.config.num_patches, exported.config.patch_dim)
    engine = exported.engine()
    stage = engine.open(exported.block, branches=2, scaled_queries=True)
    begin(stage, exported, q_scale=1 / 0.7)
    spoil(stage, exported)
    found = run(stage, x, 5)
    stage.close()
    engine.close()
    classes = exported.weights.classes
    for branch, (row, scale) in enumerate([(classes[0], 1.0), (classes[-1], 1 / 0.7)]):
        wanted = reference(exported, x, row, scale)
        assert_close(found[branch], wanted, exported.precision)


@pytest.mark.parametrize("name", ["dynamic0", "dynamic1", "fp16"])
def test_vjp_is_autograd(programs: dict[str, Exported], runtime: str, name: str) -> None:
    exported = programs[name]
    T, D = exported.config.num_patches, exported.config.patch_dim
    x, context = noise(3, T, D), exported.weights.pos + exported.weights.classes[0]
    grads = noise(4, 2, T, D) * 1e6  # far outside of float16
    engine = exported.engine()
    vjp = engine.open_vjp(exported.block)
    found = vjp.run(x, context, *grads)
    zero = vjp.run(x, context, np.zeros_like(x), np.zeros_like(x))
    vjp.close()
    engine.close()
    leaf = torch.from_numpy(x)[None].requires_grad_()
    outputs = exported.weights.module(exported.config)(leaf, torch.from_numpy(context)[None])[:2]
    total = sum((o[0] * torch.from_numpy(g)).sum() for o, g in zip(outputs, grads, strict=True))
    assert isinstance(total, torch.Tensor)
    wanted = torch.autograd.grad(total, leaf)[0][0].numpy()
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error < GRADIENT_TOLERANCE[exported.precision]
    assert not zero.any()


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_both_runtimes_give_the_same_bits(
    programs: dict[str, Exported],
    shim_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported = programs["static"]
    x = noise(5, exported.config.num_patches, exported.config.patch_dim)
    found = {}
    for cache in (shim_cache, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        engine = exported.engine()
        stage = engine.open(exported.block)
        begin(stage, exported)
        found[engine.info.version] = run(stage, x, 1).tobytes()
        stage.close()
        engine.close()
    assert sorted(name.split("(")[1] for name in found) == ["python)", "torch-free shim)"]
    assert len(set(found.values())) == 1


# ---- quantized -----------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [1, 2])
def test_quantized_patch_does_not_depend_on_its_window(
    programs: dict[str, Exported], runtime: str, branches: int
) -> None:
    """The same bits from every window, so windowed sampling is sequential sampling."""
    exported = programs["mixed1"]
    x = noise(10, exported.config.num_patches, exported.config.patch_dim)
    x[1::2] *= 30  # neighbours that would spoil a scale of the whole window
    engine = exported.engine()
    stage = engine.open(exported.block, branches=branches, scaled_queries=branches == 2)
    begin(stage, exported, q_scale=1 / 0.7 if branches == 2 else None)
    found = {window: run(stage, x, window).tobytes() for window in (1, 2, 3, 7, 8, len(x))}
    stage.close()
    engine.close()
    assert len(set(found.values())) == 1


def test_quantized_precisions_have_no_denoising(programs: dict[str, Exported]) -> None:
    exported, other = programs["mixed1"], programs["dynamic0"]
    assert exported.config.noise.kind == "gaussian"
    assert {artifact.role for artifact in exported.artifacts} == {"step"}
    engine = replace(exported, artifacts=(*exported.artifacts, *other.artifacts)).engine()
    with pytest.raises(
        EngineError, match=r"no denoising .* executorch mixed, but for executorch fp32$"
    ):
        engine.open_vjp(exported.block)
    engine.close()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (round_to_nearest(np.ones((4, 48), np.float32), FORMATS["int4_g32"]), "48 columns are not"),
        (round_to_nearest(np.ones((4, 32), np.float32), FORMATS["int8_g32"]), "w as int8_g32: cho"),
        (
            QuantizedMatrix(
                FORMATS["int8"],
                np.zeros((2, 4), np.int8),
                np.ones((2, 1), np.float32),
                np.ones((2, 1), np.int8),
            ),
            "w with zero points",
        ),
    ],
)
def test_what_xnnpack_cannot_take_is_refused(matrix: QuantizedMatrix, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layout_of({"w": matrix})


# ---- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dynamic0", "static", "mixed1", "fp16"])
def test_weights_are_stored_once(programs: dict[str, Exported], name: str) -> None:
    """The rest, the graphs of all methods, takes 50 to 165 KB."""
    exported = programs[name]
    arrays = stored(exported.weights, exported.precision).values()
    weights = sum(array.nbytes for array in arrays)
    assert weights < exported.path.stat().st_size < weights + 220_000


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("static", {"step1", "step4", "guided1", "guided4"}),
        ("dynamic0", {"step", "guided", "vjp"}),
        ("mixed0", {"step", "guided"}),
    ],
)
def test_heavy_operators_are_delegated(
    programs: dict[str, Exported], name: str, methods: set[str]
) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(programs[name].path.read_bytes()).program
    operators = {plan.name: {op.name for op in plan.operators} for plan in program.execution_plan}
    assert set(operators) == methods
    heavy = ("mm", "linear", "softmax", "gelu", "mul", "permute", "quant")
    for names in operators.values():
        assert not {name for name in names if any(word in name for word in heavy)}
    assert all(
        "aten::index_put_" in names for method, names in operators.items() if method != "vjp"
    )


def test_template_refuses_a_file_without_the_weights(tmp_path: Path) -> None:
    marked = stand_ins({"w": np.zeros((4, 4), np.float32)})
    path = tmp_path / "other.pte"
    path.write_bytes(b"no weights here")
    with pytest.raises(EngineError, match="did not store w as it is"):
        ProgramTemplate(path, marked)


def test_template_replaces_every_copy(tmp_path: Path) -> None:
    weights = {f"w{i}": noise(i, 3, 5).astype(np.float16) for i in range(3)}
    marked = stand_ins(weights)
    source = tmp_path / "source"
    source.write_bytes(b"head" + b"gap".join(a.tobytes() for a in [*marked.values(), marked["w1"]]))
    ProgramTemplate(source, marked).write(tmp_path / "target", weights)
    wanted = b"head" + b"gap".join(a.tobytes() for a in [*weights.values(), weights["w1"]])
    assert (tmp_path / "target").read_bytes() == wanted


# ---- the engine ----------------------------------------------------------------------------------


def test_non_finite_rows_are_forgotten(programs: dict[str, Exported], runtime: str) -> None:
    exported = programs["static"]
    x = noise(6, exported.config.num_patches, exported.config.patch_dim)
    engine = exported.engine()
    with_nan = engine.open(exported.block)
    begin(with_nan, exported)
    bad = np.full_like(x, np.inf)
    assert not np.isfinite(run(with_nan, bad, 4)).any()
    with_nan.close()
    stage = engine.open(exported.block)
    begin(stage, exported)
    found = run(stage, x, 1)[0]
    stage.close()
    engine.close()
    wanted = reference(exported, x, exported.weights.classes[0])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE["fp32"], rtol=0)


def test_two_stages_of_a_block_have_caches_of_their_own(
    programs: dict[str, Exported], runtime: str
) -> None:
    exported = programs["static"]
    xs = [noise(seed, exported.config.num_patches, exported.config.patch_dim) for seed in (7, 8)]
    engine = exported.engine()
    stages = [engine.open(exported.block) for _ in xs]
    for stage in stages:
        begin(stage, exported)
    found: list[list[np.ndarray]] = [[], []]
    for position in range(len(xs[0])):
        for i, stage in enumerate(stages):
            _, xb = stage.step(xs[i][None, position : position + 1], position)
            found[i].append(xb[0, 0].copy())
    for stage in stages:
        stage.close()
        stage.close()  # does nothing
    engine.close()
    for i, x in enumerate(xs):
        wanted = reference(exported, x, exported.weights.classes[0])[1]
        np.testing.assert_allclose(np.concatenate(found[i]), wanted, atol=5e-6, rtol=0)


def test_thread_pool_is_resized_only_when_unused(
    programs: dict[str, Exported], runtime: str
) -> None:
    exported = programs["static"]
    x = noise(9, exported.config.num_patches, exported.config.patch_dim)
    found = {}
    for threads in (1, 2, 1):
        engine, other = exported.engine(threads), exported.engine(3 - threads)
        stage = engine.open(exported.block)
        begin(stage, exported)
        found[threads] = run(stage, x, 4).tobytes()
        with pytest.raises(EngineError, match=f"programs with threads={threads} are open"):
            other.open(exported.block)
        stage.close()
        engine.close()
        other.close()
    assert found[1] == found[2]


def test_errors_name_what_is_wrong(
    programs: dict[str, Exported], runtime: str, tmp_path: Path
) -> None:
    exported = programs["static"]
    with pytest.raises(UsageError, match="no device 'cuda': choose from cpu"):
        exported.engine(device="cuda")
    with pytest.raises(UsageError, match="threads 0 is not between 1 and 256"):
        exported.engine(threads=0)
    engine = exported.engine()
    with pytest.raises(EngineError, match="one picture at a time, not 2"):
        engine.open(exported.block, num_images=2)
    engine.close()
    step_only = Exported(
        exported.root, exported.config, exported.block, exported.weights, exported.artifacts[:1]
    )
    engine = step_only.engine()
    with pytest.raises(EngineError, match="no 2-branch step method of block1"):
        engine.open(exported.block, branches=2)
    with pytest.raises(EngineError, match="no denoising method of block1"):
        engine.open_vjp(exported.block)
    engine.close()


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"not a program at all" * 50, lambda data: data[: len(data) // 40]],
    ids=["garbage", "truncated"],
)
def test_damaged_program_is_refused(
    programs: dict[str, Exported],
    runtime: str,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    exported = programs["static"]
    copy = tmp_path / exported.artifacts[0].path
    copy.parent.mkdir(parents=True)
    copy.write_bytes(damage(exported.path.read_bytes()))
    broken = Exported(
        tmp_path, exported.config, exported.block, exported.weights, exported.artifacts
    )
    engine = broken.engine()
    with pytest.raises((BundleError, EngineError), match=r"block1\.pte"):
        stage = engine.open(exported.block)
        begin(stage, exported)
        stage.step(np.zeros((1, 1, exported.config.patch_dim), np.float32), 0)
    engine.close()


def test_program_of_another_shape_is_refused(programs: dict[str, Exported], runtime: str) -> None:
    """A manifest may promise what its programs do not hold."""
    real, claimed = programs["static"], programs["dynamic0"]
    artifact = Artifact(
        **{**real.artifacts[0].__dict__, "stage": claimed.block.name, "windows": (1, 2)}
    )
    lie = Exported(real.root, claimed.config, claimed.block, claimed.weights, (artifact,))
    engine = lie.engine()
    stage = engine.open(claimed.block)
    begin(stage, lie)
    D = claimed.config.patch_dim
    with pytest.raises(EngineError, match=r"block1\.pte.*'step1'"):
        stage.step(np.zeros((1, 1, D), np.float32), 0)
    with pytest.raises(EngineError, match=r"block1\.pte.*'step2'"):
        stage.step(np.zeros((1, 2, D), np.float32), 0)
    stage.close()
    engine.close()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_wheel", lambda: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[executorch\]'"):
        executorch_program.find_runtime()
    with pytest.raises(MissingExtraError, match=r"pip install 'flowship\[executorch\]'"):
        build.build()


def test_build_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler 'no-such-compiler'"):
        build.build()
    monkeypatch.setattr(build, "LIBRARIES", ("executorch_nowhere",))
    with pytest.raises(EngineError, match=r"has no lib/libexecutorch_nowhere\.so"):
        build.build()


def test_engine_module_imports_neither_package() -> None:
    code = (
        "import sys, flowship.runtime.engines.executorch; "
        "sys.exit('torch' in sys.modules or 'executorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_shim_runs_without_torch(programs: dict[str, Exported], shim_cache: Path) -> None:
    exported = programs["dynamic0"]
    D, C = exported.config.patch_dim, exported.config.channels
    code = f"""
import sys, numpy as np
from pathlib import Path
from flowship.runtime.engines.executorch_program import find_runtime
program = find_runtime().open(Path({str(exported.path)!r}))
x, context = np.ones((1, 3, {D}), np.float32), np.ones((1, 3, {C}), np.float32)
ab = np.zeros((1, 3, {2 * D}), np.float32)
program.bind("step", [x, context, np.arange(3)], ab)()
program.close()
sys.exit(not ab.any() or "torch" in sys.modules)
"""
    environment = {"XDG_CACHE_HOME": str(shim_cache), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0
