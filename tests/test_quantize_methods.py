"""Formats, round to nearest, palettes and GPTQ, on matrices and on the trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONDITIONAL, GOLDEN, TRAINED
from hypothesis import given, settings
from hypothesis import strategies as st

from flowship.export.checkpoint import Checkpoint
from flowship.export.options import Method
from flowship.export.quantize.block import quantize_block
from flowship.export.quantize.calibration import LayerWalk, collect_inputs
from flowship.export.quantize.data import PictureSet, read_pictures
from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.gptq import gptq
from flowship.export.quantize.layers import matrix_names
from flowship.export.quantize.likelihood import bits_per_dim, paired_change
from flowship.export.quantize.matrix import Floats, QuantizedMatrix
from flowship.export.quantize.palette import make_palette
from flowship.export.quantize.rtn import round_to_nearest, symmetric_scales
from flowship.runtime.errors import NonFiniteError, UsageError

TEST_PICTURES = Path(__file__).parents[1] / "runtime" / "embedded" / "fashion_mnist_test_512.npz"
SHAPES = ((24, 64), (7, 200), (5, 33), (1, 1))


def _weight(shape: tuple[int, int], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def _hessian(columns: int, seed: int = 1) -> torch.Tensor:
    """Of correlated inputs, some of them much larger than others."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(4 * columns, columns)) @ random.normal(size=(columns, columns))
    x *= np.exp(random.normal(size=columns))
    return torch.from_numpy((x.T @ x / len(x)).astype(np.float32))


def _error(weight: Floats, matrix: QuantizedMatrix, hessian: torch.Tensor) -> float:
    error = torch.from_numpy(weight - matrix.dequantized()).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_and_scales_are_within_their_format(name: str, shape: tuple[int, int]) -> None:
    format, weight = FORMATS[name], _weight(shape)
    for matrix in (
        round_to_nearest(weight, format),
        gptq(weight, _hessian(shape[1]), format),
    ):
        assert matrix.shape == shape
        assert matrix.dequantized().shape == shape
        assert matrix.dequantized().dtype == np.float32
        if format.kind == "palette":
            assert matrix.codes.dtype == np.uint8 and matrix.codes.max() < 1 << format.bits
            assert matrix.palette is not None and matrix.palette.shape == (1 << format.bits,)
            np.testing.assert_array_equal(matrix.palette, matrix.palette.astype(np.float16))
        else:
            most = 2 ** (format.bits - 1)
            assert matrix.codes.dtype == np.int8
            assert -most <= matrix.codes.min() and matrix.codes.max() < most
            assert matrix.scales is not None and (matrix.scales > 0).all()
            assert matrix.scales.shape == (shape[0], format.groups(shape[1]))


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_holds_exactly_stays(name: str) -> None:
    format = FORMATS[name]
    once = round_to_nearest(_weight((8, 128)), format).dequantized()
    again = round_to_nearest(once, format).dequantized()
    np.testing.assert_allclose(again, once, rtol=0.01, atol=1e-4)


def test_group_scales_are_exact_in_bfloat16() -> None:
    for name in ("int4_g32", "int4_g64", "int4_g128", "int8_g32"):
        scales = torch.from_numpy(symmetric_scales(_weight((16, 256)), FORMATS[name]))
        torch.testing.assert_close(scales.bfloat16().float(), scales, rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_round_to_nearest_is_within_half_a_step(rows: int, columns: int, seed: int) -> None:
    weight = _weight((rows, columns), seed)
    matrix = round_to_nearest(weight, FORMATS["int8"])
    assert matrix.scales is not None
    assert (np.abs(matrix.dequantized() - weight) <= 0.501 * matrix.scales).all()


def test_a_palette_of_few_values_is_exact() -> None:
    values = np.array([-0.5, -0.25, 0.0, 0.125, 1.0], np.float32)
    weight = np.random.default_rng(0).choice(values, (16, 32)).astype(np.float32)
    matrix = round_to_nearest(weight, FORMATS["pal4"])
    np.testing.assert_array_equal(matrix.dequantized(), weight)


def test_a_palette_is_better_than_even_steps() -> None:
    weight = _weight((64, 64))
    found = round_to_nearest(weight, FORMATS["pal4"]).dequantized()
    low, step = weight.min(), (weight.max() - weight.min()) / 15
    even = low + np.rint((weight - low) / step) * step
    assert ((found - weight) ** 2).mean() < 0.8 * ((even - weight) ** 2).mean()


def test_a_palette_is_finer_where_columns_matter() -> None:
    weight = np.concatenate([_weight((64, 32)), 10 * _weight((64, 32), 1)], axis=1)
    first = np.concatenate([np.full(32, 100.0), np.full(32, 1e-6)])
    near = make_palette(weight, FORMATS["pal4"], first)
    assert np.abs(near).max() < np.abs(make_palette(weight, FORMATS["pal4"])).max()


@pytest.mark.parametrize("name", FORMATS)
def test_gptq_of_unrelated_inputs_is_round_to_nearest(name: str) -> None:
    weight, format = _weight((8, 160)), FORMATS[name]
    found = gptq(weight, torch.eye(160), format)
    np.testing.assert_array_equal(found.codes, round_to_nearest(weight, format).codes)
    np.testing.assert_array_equal(
        found.dequantized(), round_to_nearest(weight, format).dequantized()
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("columns", [64, 200])
def test_gptq_has_less_error_of_outputs(name: str, columns: int) -> None:
    weight, hessian, format = _weight((32, columns)), _hessian(columns), FORMATS[name]
    nearest = _error(weight, round_to_nearest(weight, format), hessian)
    assert _error(weight, gptq(weight, hessian, format), hessian) < 0.7 * nearest


def test_gptq_takes_inputs_that_are_always_zero() -> None:
    hessian = _hessian(64)
    hessian[5] = hessian[:, 5] = 0
    given = hessian.clone()
    matrix = gptq(_weight((8, 64)), hessian, FORMATS["int4_g32"])
    assert np.isfinite(matrix.dequantized()).all()
    torch.testing.assert_close(hessian, given, rtol=0, atol=0)  # the caller's own stays


def test_gptq_refuses_what_is_no_hessian() -> None:
    with pytest.raises(NonFiniteError, match="the Hessian of 2 inputs has no inverse"):
        gptq(_weight((3, 2)), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), FORMATS["int4_g32"])


def _golden() -> tuple[Checkpoint, PictureSet]:
    checkpoint = Checkpoint.open(GOLDEN / f"{CONDITIONAL}.pth")
    return checkpoint, read_pictures(checkpoint, None, own=6)


def test_hessians_are_those_of_the_layers_inputs() -> None:
    checkpoint, pictures = _golden()
    weights, inputs = checkpoint.block(0), collect_inputs(checkpoint, pictures)[0]
    module, seen = weights.module(checkpoint.config), []
    layer = module.attn_blocks[1]
    layer.get_submodule("mlp.main.2").register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    rows = weights.classes[[-1 if label is None else label for label in inputs.labels]]
    context = torch.from_numpy(weights.pos[None] + rows[:, None])
    module(torch.from_numpy(inputs.x), context)
    x = seen[0].reshape(-1, seen[0].shape[-1])
    walk = LayerWalk(weights, inputs)
    walk.next_layer()
    torch.testing.assert_close(walk.hessian("mlp.main.2"), x.T @ x / len(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_block_is_quantized_where_formats_say_so(method: Method) -> None:
    checkpoint, pictures = _golden()
    weights = checkpoint.block(1)
    before = {name: array.copy() for name, array in weights.network.items()}
    names = matrix_names(checkpoint.config.layers_per_block)
    formats = {names[0]: FORMATS["int4_g32"], names[-1]: FORMATS["pal6"]}
    inputs = collect_inputs(checkpoint, pictures)[1] if method == "gptq" else None
    quantized = quantize_block(weights, formats, method, inputs)
    assert {n: m.format for n, m in quantized.quantized.items()} == formats
    for name, array in quantized.network.items():
        np.testing.assert_array_equal(array, before[name])
    assert quantize_block(weights, formats, method, inputs).quantized.keys() == formats.keys()


def test_wrong_choices_are_refused() -> None:
    checkpoint, pictures = _golden()
    weights, format = checkpoint.block(0), FORMATS["int8"]
    with pytest.raises(UsageError, match=r"'proj_in.weight' is not quantized: choose from attn_bl"):
        quantize_block(weights, {"proj_in.weight": format}, "rtn")
    with pytest.raises(UsageError, match="the method gptq without pictures"):
        quantize_block(weights, {}, "gptq")
    inputs = collect_inputs(checkpoint, pictures)[0]
    with pytest.raises(UsageError, match="the method rtn with pictures"):
        quantize_block(weights, {}, "rtn", inputs)


def test_calibrated_int4_loses_at_most_half_of_round_to_nearest() -> None:
    """On the trained model and pictures that calibrated nothing; with 256 a sixth is measured."""
    checkpoint = Checkpoint.open(TRAINED)
    pictures = read_pictures(checkpoint, TEST_PICTURES).first(96)
    steering, judging = pictures.halves()
    inputs = collect_inputs(checkpoint, steering)
    formats = dict.fromkeys(matrix_names(4), FORMATS["int4_g32"])
    reference = bits_per_dim(checkpoint, judging, lambda stage: checkpoint.block(stage.block))
    changes = {}
    for method in ("rtn", "gptq"):
        bits = bits_per_dim(
            checkpoint,
            judging,
            lambda stage, method=method: quantize_block(  # type: ignore[misc]
                checkpoint.block(stage.block),
                formats,
                method,
                inputs[stage.block] if method == "gptq" else None,
            ),
        )
        changes[method] = paired_change(bits, reference)
    assert changes["gptq"].mean < 0.5 * changes["rtn"].mean
    assert changes["gptq"].high < changes["rtn"].low
