"""A guided block in ONNX: its branches are heads of one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from flowship.runtime import Bundle
from flowship.runtime.engines import ARStage, EngineOptions
from flowship.runtime.engines.onnx import OnnxEngine
from flowship.runtime.engines.onnx_stage import GqaStage
from flowship.runtime.normal import normals

Floats = npt.NDArray[np.float32]
LABEL = 3


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with Bundle.open() as opened:
        yield opened


def _opened(
    bundle: Bundle, engine: OnnxEngine, rows: Sequence[int], q_scale: Sequence[float]
) -> ARStage:
    block = bundle.spec.ar_blocks[0]
    scaled = any(scale != 1 for scale in q_scale)
    stage = engine.open(block, branches=len(rows), scaled_queries=scaled)
    classes = bundle.array(f"{block.name}.classes")[list(rows)][:, None]
    stage.begin(bundle.array(f"{block.name}.pos"), classes, np.array(q_scale, np.float32))
    return stage


def _run(stage: ARStage, windows: Sequence[int], x: Floats) -> Floats:
    """[branches, T', 2D] parameters of a chain of windows."""
    found, start = [], 0
    for window in windows:
        xa, xb = stage.step(x[:, start : start + window], start)
        found.append(np.concatenate([xa, xb], -1)[:, 0].copy())
        start += window
    return np.concatenate(found, 1)


@pytest.mark.parametrize("windows", [(1,) * 12, (3, 1, 1, 4, 1, 2), (1, 1, 2, 1, 7)])
def test_each_branch_is_what_it_is_alone(bundle: Bundle, windows: tuple[int, ...]) -> None:
    D = bundle.spec.image.patch_dim
    x = normals(5, 12 * D).reshape(1, 12, D)
    with closing(OnnxEngine(bundle, EngineOptions("fp32", threads=1))) as engine:
        found = _run(_opened(bundle, engine, (LABEL, -1), (1, 1)), windows, x)
        for branch, row in enumerate((LABEL, -1)):
            alone = _run(_opened(bundle, engine, (row,), (1,)), windows, x)
            np.testing.assert_allclose(found[branch], alone[0], atol=2e-5)


def test_scaled_queries_are_of_one_branch_and_one_sequence(bundle: Bundle) -> None:
    """The stage is kept for the next picture, its scale is not."""
    D = bundle.spec.image.patch_dim
    x = normals(5, 6 * D).reshape(1, 6, D)
    with closing(OnnxEngine(bundle, EngineOptions("fp32", threads=1))) as engine:
        plain = _opened(bundle, engine, (LABEL, -1), (1, 1))
        wanted = _run(plain, (1,) * 6, x)
        plain.close()
        scaled = _opened(bundle, engine, (LABEL, -1), (1, 0.5))
        assert isinstance(plain, GqaStage) and isinstance(scaled, GqaStage)
        assert scaled is not plain and scaled.cache_values is plain.cache_values
        other = _run(scaled, (1,) * 6, x)
        scaled.close()
        again = _run(_opened(bundle, engine, (LABEL, -1), (1, 1)), (1,) * 6, x)
    np.testing.assert_array_equal(other[0], wanted[0])
    assert np.abs(other[1] - wanted[1]).max() > 1e-3
    np.testing.assert_array_equal(again, wanted)


def test_a_stage_that_is_closed_twice_is_handed_out_once(bundle: Bundle) -> None:
    """Also where it was handed out again before: its first holder has nothing left to close."""
    block = bundle.spec.ar_blocks[0]
    with closing(OnnxEngine(bundle, EngineOptions("fp32", threads=1))) as engine:
        first = engine.open(block)
        first.close()
        first.close()
        second = engine.open(block)
        first.close()
        third = engine.open(block)
        assert isinstance(first, GqaStage)
        assert isinstance(second, GqaStage) and isinstance(third, GqaStage)
        assert second.cache_values is first.cache_values  # it was kept
        assert third.cache_values is not second.cache_values
        vjp = engine.open_vjp(block)
        vjp.close()
        vjp.close()
    for stage in (second, third, second):
        stage.close()  # after the engine
