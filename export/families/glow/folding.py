"""Folding in float64: what is linear in a row becomes one matrix, what scales a row its weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .model import Conv, Doubles, Mixing

LOG_SCALE_FACTOR = 3.0  # of the gains exp(3 logs) in all ports that have gains


def lu_matrix(p: Doubles, lower: Doubles, upper: Doubles, sign: Doubles, log_s: Doubles) -> Doubles:
    """P L U of a decomposed 1x1 convolution. What is stored of L may have ones on its diagonal, or
    anything above it: only what is below counts."""
    product: Doubles = (
        p
        @ (np.tril(lower, -1) + np.eye(len(p)))
        @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))
    )
    return product


def mixing(W: Doubles, scale: Doubles, shift: Doubles) -> Mixing:
    """W (scale * (x + shift))."""
    return Mixing(W * scale, W @ (scale * shift))


def rows(conv: Conv, order: Doubles | slice | list[int]) -> Conv:
    return Conv(conv.weight[order], conv.bias[order])


def scaled(conv: Conv, gain: Doubles) -> Conv:
    """Each row times a factor [out]."""
    bias_gain = gain.reshape(-1, *(1,) * (conv.bias.ndim - 1))
    return Conv(conv.weight * gain.reshape(-1, 1, 1, 1), conv.bias * bias_gain)


def zero_conv(conv: Conv, logs: Doubles) -> Conv:
    """A convolution that was initialised to zero and has a gain."""
    return scaled(conv, np.exp(LOG_SCALE_FACTOR * logs.reshape(-1)))


def stacked(*convs: Conv) -> Conv:
    """The rows of several, one after another."""
    return Conv(np.concatenate([c.weight for c in convs]), np.concatenate([c.bias for c in convs]))


def uncrossed(conv: Conv) -> Conv:
    """Rows (first, second, first, second, ...) as [second | first]."""
    return stacked(rows(conv, slice(1, None, 2)), rows(conv, slice(0, None, 2)))


def uncrossed_prior(conv: Conv) -> Conv:
    """Rows (m, q, m, q, ...) as [m | q]."""
    return stacked(rows(conv, slice(0, None, 2)), rows(conv, slice(1, None, 2)))


def plus_two(conv: Conv) -> Conv:
    """Adds the 2 of sigmoid(u + 2) to the first half of the rows, which are u."""
    bias = conv.bias.copy()
    bias[: len(bias) // 2] += 2.0
    return Conv(conv.weight, bias)


def border_of_ones(conv: Conv) -> Conv:
    """For an input padded with ones: less 1 everywhere it is padded with zeros, and each row gets
    the sum of its kernel."""
    return Conv(conv.weight, conv.bias + conv.weight.sum((1, 2, 3)))


def ring_map(weight: Doubles, height: int, width: int) -> Doubles:
    """[out, H, W]: what kernels [out, n, 3, 3] give for channels that are one around a picture and
    zero in it."""
    ring = torch.ones(1, weight.shape[1], height + 2, width + 2, dtype=torch.float64)
    ring[:, :, 1:-1, 1:-1] = 0
    kernel = torch.from_numpy(np.ascontiguousarray(weight))
    found: Doubles = torch.nn.functional.conv2d(ring, kernel)[0].numpy()
    return found


def with_actnorm(weight: Doubles, parts: Mapping[str, Doubles]) -> Conv:
    """exp(logs) * (conv(x) + bias), with ``actnorm.logs`` and ``actnorm.bias``."""
    gain = np.exp(parts["actnorm.logs"].reshape(-1))
    return scaled(Conv(weight, parts["actnorm.bias"].reshape(-1)), gain)
