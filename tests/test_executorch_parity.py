"""ExecuTorch programs against the float32 torch module, through both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from executorch_programs import (
    GRADIENT_TOLERANCE,
    HAS_COMPILER,
    TOLERANCE,
    Exported,
    begin,
    noise,
    reference,
    run,
    spoil,
)


def assert_close(
    found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], precision: str
) -> None:
    largest = float(np.abs(wanted).max()) if precision == "fp16" else 1.0
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE[precision] * largest, rtol=0)


@pytest.mark.parametrize("name", ["dynamic0", "dynamic1", "static", "mixed0", "mixed1", "fp16"])
@pytest.mark.parametrize("window", [1, 4, 5, None])
def test_step_matches_torch(
    programs: dict[str, Exported], executorch_runtime: str, name: str, window: int | None
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
def test_guided_is_two_passes(
    programs: dict[str, Exported], executorch_runtime: str, name: str
) -> None:
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
def test_vjp_is_autograd(programs: dict[str, Exported], executorch_runtime: str, name: str) -> None:
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


@pytest.mark.parametrize("branches", [1, 2])
def test_quantized_patch_does_not_depend_on_its_window(
    programs: dict[str, Exported], executorch_runtime: str, branches: int
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
