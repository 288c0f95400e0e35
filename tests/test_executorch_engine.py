"""The ExecuTorch engine: caches, threads, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executorch_programs import TOLERANCE, Exported, begin, noise, reference, run

from flowship.runtime.errors import BundleError, EngineError, UsageError
from flowship.runtime.manifest import Artifact


def test_non_finite_rows_are_forgotten(
    programs: dict[str, Exported], executorch_runtime: str
) -> None:
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
    programs: dict[str, Exported], executorch_runtime: str
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
    programs: dict[str, Exported], executorch_runtime: str
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
    programs: dict[str, Exported], executorch_runtime: str, tmp_path: Path
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
    executorch_runtime: str,
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


def test_program_of_another_shape_is_refused(
    programs: dict[str, Exported], executorch_runtime: str
) -> None:
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
