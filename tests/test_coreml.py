"""Core ML packages, run by the interpreter, against the float32 torch block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_conversion import relative_error
from coreml_packages import (
    COND,
    EMBEDDED,
    HALF_ERROR,
    UNCOND,
    Exports,
    export,
    interpreter,
    random_block,
    run_all,
)

from flowship.export.families.tarflow import BlockWeights, TarFlowConfig
from flowship.export.targets.base import TargetOptions
from flowship.export.targets.coreml import CoreMLTarget
from flowship.runtime.engines.base import EngineOptions
from flowship.runtime.engines.coreml_interpreter import InterpreterEngine
from flowship.runtime.engines.coreml_signature import check_signature
from flowship.runtime.engines.coreml_stage import MASKED, cache_rows, causal_mask
from flowship.runtime.engines.mil import Executable, Package
from flowship.runtime.errors import BundleError, CheckpointError, EngineError, UsageError

BLOCKS = [(COND, 0), (COND, 1), (COND, 2), (UNCOND, 0), (UNCOND, 1), (EMBEDDED, 3)]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


@pytest.mark.parametrize(("path", "block"), BLOCKS, ids=lambda v: getattr(v, "stem", v))
def test_package_is_the_torch_block(interpreted: Exports, path: Path, block: int) -> None:
    exported = interpreted(path, block)
    x, classes = exported.random_patches(1), exported.class_rows(0)
    stage = interpreter(exported).open(exported.stage)
    found = run_all(stage, exported, x, classes, exported.config.num_patches)
    for got, want in zip(found, exported.expected(x, classes), strict=True):
        assert relative_error(got, want) < HALF_ERROR
    for got, want in zip(run_all(stage, exported, x, classes, 1), found, strict=True):
        assert relative_error(got, want) < HALF_ERROR / 2  # same graph, other summation order


def test_guidance_branches_and_query_scale(interpreted: Exports) -> None:
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
    interpreted: Exports,
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


def test_refused(interpreted: Exports, tmp_path: Path) -> None:
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


def test_functions_must_be_those_of_the_block(interpreted: Exports) -> None:
    """A package of another block runs, and computes something else."""
    exported = interpreted(UNCOND, 0)
    executable, step = Executable(Package(exported.package), "step1"), exported.artifacts[0]
    check_signature(executable, "step1", exported.stage, step)
    deeper = replace(exported.stage, num_layers=2)
    words = r"coreml/fp16/block0.mlpackage: the function step1 has no state 'k_1' \(its states: k_0"
    with pytest.raises(BundleError, match=words):
        check_signature(executable, "step1", deeper, step)
    narrower = replace(exported.stage, num_heads=2, head_dim=32)
    words = r"the state k_0 fp16\[1, 1, 32, 64\], expected .* = \(1, 2, 32\)"
    with pytest.raises(BundleError, match=words):
        check_signature(executable, "step1", narrower, step)
    with pytest.raises(BundleError, match="no state 'guided_k_0'"):
        check_signature(executable, "step1", exported.stage, replace(step, branches=2))
