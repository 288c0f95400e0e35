"""A guided block in ONNX: single patches and windows run two graphs on one cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from flowship.runtime import Bundle
from flowship.runtime.engines import EngineOptions
from flowship.runtime.engines.onnx import OnnxEngine, _GqaStage
from flowship.runtime.normal import normals

Floats = npt.NDArray[np.float32]
LABEL = 3


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with Bundle.open() as opened:
        yield opened


def _opened(
    bundle: Bundle, engine: OnnxEngine, rows: Sequence[int], q_scale: Sequence[float]
) -> _GqaStage:
    block = bundle.spec.ar_blocks[0]
    stage = engine.open(block, branches=len(rows))
    assert isinstance(stage, _GqaStage)
    classes = bundle.array(f"{block.name}.classes")[list(rows)][:, None]
    stage.begin(bundle.array(f"{block.name}.pos"), classes, np.array(q_scale, np.float32))
    return stage


def _run(stage: _GqaStage, windows: Sequence[int], x: Floats) -> Floats:
    """[branches, T', 2D] parameters of a chain of windows."""
    found, start = [], 0
    for window in windows:
        xa, xb = stage.step(x[:, start : start + window], start)
        found.append(np.concatenate([xa, xb], -1)[:, 0].copy())
        start += window
    return np.concatenate(found, 1)


@pytest.mark.parametrize("windows", [(1,) * 12, (3, 1, 1, 4, 1, 2), (1, 1, 2, 1, 7)])
def test_both_graphs_share_the_cache(bundle: Bundle, windows: tuple[int, ...]) -> None:
    D = bundle.spec.image.patch_dim
    x = normals(5, 12 * D).reshape(1, 12, D)
    with closing(OnnxEngine(bundle, EngineOptions("fp32", threads=1))) as engine:
        guided = _opened(bundle, engine, (LABEL, -1), (1, 1))
        found = _run(guided, windows, x)
        used = {window > 1 for window in windows}
        assert set(guided.sessions) == used  # folded for windows alone
        for branch, row in enumerate((LABEL, -1)):
            alone = _run(_opened(bundle, engine, (row,), (1,)), windows, x)
            np.testing.assert_allclose(found[branch], alone[0], atol=2e-5)


def test_scaled_queries_need_the_folding_graph(bundle: Bundle) -> None:
    D = bundle.spec.image.patch_dim
    x = normals(5, 6 * D).reshape(1, 6, D)
    with closing(OnnxEngine(bundle, EngineOptions("fp32", threads=1))) as engine:
        scaled = _opened(bundle, engine, (LABEL, -1), (1, 0.5))
        found = _run(scaled, (1,) * 6, x)
        assert set(scaled.sessions) == {True}
        scaled.close()
        plain = _opened(bundle, engine, (LABEL, -1), (1, 1))  # the same stage again
        other = _run(plain, (1,) * 6, x)
        assert set(plain.sessions) == {True, False}
    np.testing.assert_allclose(found[0], other[0], atol=2e-5)
    assert np.abs(found[1] - other[1]).max() > 1e-3
