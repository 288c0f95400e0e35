"""What a block's comparison with torch measures, and what it refuses."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from conftest import CONDITIONAL, golden_model

from flowship.export.checkpoint import Checkpoint
from flowship.export.options import PRECISIONS
from flowship.export.parity import BlockError, _errors, check_block, refuse_if_bad
from flowship.export.reference import LayeredReference
from flowship.runtime import ParityError
from flowship.runtime.engines import EngineInfo, VJPStage
from flowship.runtime.manifest import EngineName
from flowship.runtime.spec import ARBlock

Floats = npt.NDArray[np.float32]
ALL: list[tuple[EngineName, str]] = [
    (engine, precision) for engine in get_args(EngineName) for precision in PRECISIONS[engine]
]


def _measured(found: Floats, wanted: Floats) -> BlockError:
    return BlockError("test", *_errors(found, wanted), None)


def test_errors_are_not_clipped() -> None:
    wanted = np.array([[0.5, -2.0, 100.0, 0.0]], np.float32)
    off = np.array([[0.01, 0.1, 1.0, 0.0]], np.float32)
    absolute, relative, rms = _errors(wanted + off, wanted)
    assert absolute == pytest.approx(1.0, rel=1e-5)
    assert relative == pytest.approx(0.05, rel=1e-5)  # 0.1 of -2; 0.01 counts as it is
    assert rms == pytest.approx(np.sqrt((0.0001 + 0.01 + 1) / (0.25 + 4 + 10000)), rel=1e-5)
    assert _errors(wanted, wanted) == (0, 0, 0)
    tiny = np.full((1, 4), 1e-5, np.float32)
    assert _errors(tiny, 0 * tiny)[2] == pytest.approx(1e-3)  # not infinite
    for bad in (np.nan, np.inf):
        assert _errors(np.full_like(wanted, bad), wanted) == (np.inf,) * 3


@pytest.mark.parametrize(("engine", "precision"), ALL)
def test_large_values_that_are_wrong_are_refused(engine: EngineName, precision: str) -> None:
    """Each beyond 1 by a factor of five: pictures, which are clipped there, would not show it."""
    wanted = np.random.default_rng(0).normal(0, 2, (1, 64, 16)).astype(np.float32)
    refuse_if_bad("fine", engine, precision, _measured(wanted + np.float32(1e-5), wanted))
    for factor in (5, 1.5):
        wrong = np.where(np.abs(wanted) > 1, factor * wanted, wanted)
        with pytest.raises(ParityError, match=r"block: relative error \S+ of \(xa, xb\)"):
            refuse_if_bad("block", engine, precision, _measured(wrong, wanted))


@pytest.mark.parametrize(("engine", "precision"), ALL)
def test_small_values_that_are_wrong_are_refused(engine: EngineName, precision: str) -> None:
    wanted = np.random.default_rng(0).normal(0, 0.02, (1, 64, 16)).astype(np.float32)
    with pytest.raises(ParityError, match=r"block: relative (rms )?error"):
        refuse_if_bad("block", engine, precision, _measured(1.2 * wanted, wanted))


class _Torch:
    """An engine whose answers are torch's own, changed."""

    windows: tuple[int, ...] = ()
    info = EngineInfo("torch", "0", "cpu", "fp16", 1)

    def __init__(self, reference: LayeredReference, factor: float) -> None:
        self._reference, self._factor = reference, np.float32(factor)

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        return 1

    def open(self, stage: ARBlock, *, num_images: int = 1, branches: int = 1,
             scaled_queries: bool = False) -> _Torch:  # fmt: skip
        self._x = np.zeros((branches, 0, self._reference.config.patch_dim), np.float32)
        return self

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        raise AssertionError

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._context, self._q_scale = pos + classes[:, 0, None], q_scale

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        seen = self._x[:, :position]
        self._x = np.concatenate([seen, np.repeat(x, len(seen), 0)], 1)
        context = self._context[:, : self._x.shape[1]]
        found = self._reference.parameters(self._x, context, self._q_scale)[:, None, position:]
        xa, xb = np.split(np.where(np.abs(found) > 0.2, self._factor * found, found), 2, axis=-1)
        return xa, xb

    def close(self) -> None:
        pass


@pytest.mark.parametrize("factor", [1, 1.5])
def test_a_block_with_large_parameters_is_judged_by_them(factor: float) -> None:
    opened = Checkpoint.open(golden_model(CONDITIONAL).checkpoint)
    block = opened.config.flow_spec().ar_blocks[0]
    reference = LayeredReference(opened.config, block, opened.block(block.block))
    found = check_block(
        lambda: _Torch(reference, factor), reference, patches=6, at_once=True, denoise=False, seed=1
    )
    if factor == 1:
        assert found.relative_error < 1e-5 and found.rms_error < 1e-5
        return refuse_if_bad("block", "onnx", "fp32", found)
    assert found.relative_error == found.max_abs_error > 0.1  # the golden model's are below 1
    with pytest.raises(ParityError, match="relative error"):
        refuse_if_bad("block", "onnx", "fp16", found)
