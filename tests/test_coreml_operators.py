"""Operators of the interpreter by themselves, most of all those that few conversions reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from flowship.runtime.engines.mil import OPS
from flowship.runtime.engines.mil.ops.elementwise import erf
from flowship.runtime.engines.mil.types import DTYPES, unpack_bits


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


def test_gather_and_scatter() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    batches = np.array([[1, 0], [2, 2]])
    found = OPS["gather"].run(x, batches, np.array(1), np.array(1))
    assert (found == np.stack([x[0, [1, 0]], x[1, [2, 2]]])).all()
    with pytest.raises(ValueError, match="batch_dims 1"):
        OPS["gather"].run(x, batches, np.array(0), np.array(1))
    places = np.array([[0, 2], [1, 0]])
    assert (OPS["gather_nd"].run(x, places) == x[[0, 1], [2, 0]]).all()
    found = OPS["gather_nd"].run(x, places[:, :1, None], np.array(1))
    assert (found == np.stack([x[0, [0]], x[1, [1]]])).all()
    with pytest.raises(IndexError):  # the executor names the operation
        OPS["gather"].run(x, np.array([4]), np.array(1))
    ones = np.ones((2, 4), np.float32)
    assert (OPS["scatter_nd"].run(x, places, ones, "add")[[0, 1], [2, 0]] == found_plus(x)).all()
    twice = OPS["scatter"].run(x, np.array([0, 0]), np.full((2, 2, 4), 2.0), np.array(1), "mul")
    assert (twice[:, 0] == 4 * x[:, 0]).all() and (twice[:, 1:] == x[:, 1:]).all()
    along = OPS["scatter_along_axis"].run(
        x, np.array([[[2, 0, 1, 1]]]), np.full((1, 1, 4), -1.0), np.array(1), "update"
    )
    assert [int(i) for i in along[0].argmin(0)] == [2, 0, 1, 1] and (along[1] == x[1]).all()
    with pytest.raises(ValueError, match="the mode 'xor'"):
        OPS["scatter"].run(x, np.array([0]), ones, np.array(1), "xor")


def found_plus(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return x[[0, 1], [2, 0]] + 1


def test_order() -> None:
    x = np.array([[3.0, 1.0, 2.0, 1.0]], np.float32)
    assert OPS["cumsum"].run(x, np.array(1)).tolist() == [[3, 4, 6, 7]]
    assert OPS["cumsum"].run(x, np.array(1), True).tolist() == [[0, 3, 4, 6]]
    assert OPS["cumsum"].run(x, np.array(1), False, True).tolist() == [[7, 4, 3, 1]]
    values, indices = OPS["topk"].run(x, np.array(2), np.array(1), True)
    assert (values.tolist(), indices.tolist()) == ([[1, 1]], [[1, 3]])
    assert OPS["topk"].run(x, np.array(-1), return_indices=False).tolist() == [[3, 2, 1, 1]]
    with pytest.raises(ValueError, match="the 5 largest of 4 values"):
        OPS["topk"].run(x, np.array(5))
    assert OPS["argsort"].run(x).tolist() == [[0, 2, 1, 3]]
    assert OPS["one_hot"].run(np.array([2, 0]), np.array(3)).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert OPS["non_zero"].run(np.array([[0, 5], [7, 0]])).tolist() == [[0, 1], [1, 0]]


def test_epsilons_of_mil() -> None:
    """Core ML adds them where a program does not say otherwise (elementwise_unary.py)."""
    half = np.array([0.5], np.float32)
    assert abs(OPS["inverse"].run(half)[0] - 1 / 0.5001) < 1e-6
    assert OPS["inverse"].run(half, np.float32(0))[0] == 2
    assert np.isfinite(OPS["rsqrt"].run(half * 0)).all()


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_pooling(ceil: bool, counted: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 10, 9)
    options: dict[str, Any] = {"kernel_sizes": np.array([3, 2]), "strides": np.array([2, 3])}
    options |= {"pad_type": "custom", "pad": np.array([1, 1, 1, 1]), "ceil_mode": ceil}
    pooled = nn.functional.max_pool2d(x, (3, 2), (2, 3), 1, ceil_mode=ceil).numpy()
    assert (OPS["max_pool"].run(x.numpy(), **options) == pooled).all()
    mean = nn.functional.avg_pool2d(x, (3, 2), (2, 3), 1, ceil, counted).numpy()
    found = OPS["avg_pool"].run(x.numpy(), exclude_padding_from_average=not counted, **options)
    assert np.abs(found - mean).max() < 1e-6
    power = OPS["l2_pool"].run(np.abs(x.numpy()), np.array([2, 2]))
    wanted = nn.functional.lp_pool2d(x.abs(), 2.0, 2, stride=1).numpy()
    assert np.abs(power - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"stride": 2, "output_padding": 1}, {"dilation": 2}],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(options: dict[str, int], groups: int) -> None:
    torch.manual_seed(groups)
    x, weight, bias = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3, 2), torch.randn(3 * groups)
    expected = nn.functional.conv_transpose2d(x, weight, bias, groups=groups, **options).numpy()
    found = OPS["conv_transpose"].run(
        x.numpy(),
        weight.numpy(),
        bias.numpy(),
        pad=np.full(4, options.get("padding", 0)),
        output_shape=np.array(expected.shape),
        pad_type="custom",
        strides=np.full(2, options.get("stride", 1)),
        dilations=np.full(2, options.get("dilation", 1)),
        groups=np.array(groups),
    )
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-5


def test_resizing_and_norms() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 5)
    for mode, aligned in (("UNALIGN_CORNERS", False), ("STRICT_ALIGN_CORNERS", True)):
        wanted = nn.functional.interpolate(x, (7, 3), mode="bilinear", align_corners=aligned)
        found = OPS["resize_bilinear"].run(x.numpy(), np.array(7), np.array(3), mode)
        assert np.abs(found - wanted.numpy()).max() < 1e-6
    with pytest.raises(ValueError, match="the sampling_mode 'OFFSET_CORNERS'"):
        OPS["resize_bilinear"].run(x.numpy(), np.array(7), np.array(3), "OFFSET_CORNERS")
    unit = OPS["l2_norm"].run(x.numpy(), np.float32(0))
    assert abs(np.square(unit).sum() - 1) < 1e-6
    total = np.log(np.exp(x.numpy()).sum((2, 3)))
    found = OPS["reduce_log_sum_exp"].run(x.numpy() + 500, np.array([2, 3]), False)
    assert np.abs(found - total - 500).max() < 1e-4
    mixed = OPS["concat"].run([x.numpy(), -x.numpy()], np.array(1), True)
    assert (mixed[:, 1] == -x.numpy()[:, 0]).all() and mixed.shape == (1, 4, 4, 5)
