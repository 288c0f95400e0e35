"""The vector-Jacobian product of one block as a torch module: the score-based denoising step.

Written out by hand (reverse mode over the transformer) from the step's own parameters. A product
with a matrix that is not transposed, ``torch.mm(grad, weight)``, becomes XNNPACK's fully connected
operator on the very bytes that the step's ``linear`` stores, so nothing lies in the file twice.
Only the input of each layer is kept on the way there; the rest is computed again on the way back,
since the T x T probabilities of all layers would not fit a phone (400 MB at 256 pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..families.tarflow import MLP, Attention, Layer, TarFlowBlock

F32 = torch.float32
MASKED = -1e9  # finite: a row of -inf would give NaN


class VjpBlock(nn.Module):
    """Gradient of sum(grad_xa * xa + grad_xb * xb) with respect to x, one picture of T patches.

    Matrices are applied in the data type of the weights, everything else is float32. The cotangents
    are divided by their largest magnitude first, so that float16 neither over- nor underflows.
    """

    def __init__(self, block: TarFlowBlock) -> None:
        super().__init__()
        self.proj_in, self.proj_out = block.proj_in, block.proj_out
        self.layers = nn.ModuleList(
            LayerVjp(layer) for layer in block.attn_blocks if isinstance(layer, Layer)
        )

    def forward(self, x: Tensor, context: Tensor, *grads: Tensor) -> Tensor:
        """x [T, D], context [T, C], grads (grad_xa, grad_xb) or (grad_xb,) [T, D] -> [T, D]."""
        # Made on each call: as a constant it would take T^2 values in the file.
        rows = torch.arange(len(x), dtype=F32)
        mask = (rows.unsqueeze(-1) - rows).clamp(-1, 0) * -MASKED
        h, inputs = _linear(x, self.proj_in) + context, []
        for layer in self.layers:
            inputs.append(h)
            h = layer(h, mask)
        grad = torch.cat(grads, -1)
        scale = grad.abs().amax().clamp(min=1e-30)
        grad = _linear_back(grad / scale, self.proj_out)
        for i in reversed(range(len(inputs))):
            layer = self.layers[i]
            assert isinstance(layer, LayerVjp)
            grad = layer.back(grad, inputs[i], mask)
        return _linear_back(grad, self.proj_in) * scale


class LayerVjp(nn.Module):
    """An attention + MLP layer, there and back."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.attention, self.mlp = layer.attention, layer.mlp

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h [T, C], mask [T, T] -> [T, C]."""
        h = h + _attend(h, mask, self.attention)[0]
        return h + _mlp(h, self.mlp)[0]

    def back(self, grad: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """The gradient of the layer's output to that of its input h, each [T, C]."""
        attended, attention = _attend(h, mask, self.attention)
        _, mlp = _mlp(h + attended, self.mlp)
        grad = grad + _mlp_back(grad, self.mlp, mlp)
        return grad + _attend_back(grad, self.attention, attention)


# ---- what the way back needs from the way there --------------------------------------------------


@dataclass(frozen=True)
class _Normalized:
    """xhat [T, C] and 1 / sigma [T, 1] of a LayerNorm."""

    xhat: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class _Attended:
    norm: _Normalized
    q: Tensor  # each [H, T, d], q divided by sqrt(d)
    k: Tensor
    v: Tensor
    probabilities: Tensor
    y: Tensor


@dataclass(frozen=True)
class _Activated:
    norm: _Normalized
    hidden: Tensor  # u [T, 4C]
    cdf: Tensor  # Phi(u): the MLP computes u Phi(u)


# ---- pieces --------------------------------------------------------------------------------------


def _linear(x: Tensor, of: nn.Linear) -> Tensor:
    return F.linear(x.to(of.weight.dtype), of.weight, of.bias).to(F32)


def _linear_back(grad: Tensor, of: nn.Linear) -> Tensor:
    return torch.mm(grad.to(of.weight.dtype), of.weight).to(F32)


def _norm(x: Tensor, of: nn.LayerNorm) -> tuple[Tensor, _Normalized]:
    weight, bias = of.weight.to(F32), of.bias.to(F32)
    y, mean, inverse = torch.native_layer_norm(x, [x.shape[-1]], weight, bias, of.eps)
    return y, _Normalized((x - mean) * inverse, inverse)


def _norm_back(grad: Tensor, of: nn.LayerNorm, norm: _Normalized) -> Tensor:
    """inverse * (g - mean(g) - xhat * mean(g * xhat)) with g = grad * weight."""
    grad = grad * of.weight.to(F32)
    along = norm.xhat * (grad * norm.xhat).mean(-1, keepdim=True)
    return (grad - grad.mean(-1, keepdim=True) - along) * norm.inverse


def _mlp(h: Tensor, of: MLP) -> tuple[Tensor, _Activated]:
    y, norm = _norm(h, of.norm)
    u = _linear(y, _as_linear(of.main[0]))
    cdf = (u * sqrt(0.5)).erf() * 0.5 + 0.5
    return _linear(u * cdf, _as_linear(of.main[2])), _Activated(norm, u, cdf)


def _mlp_back(grad: Tensor, of: MLP, kept: _Activated) -> Tensor:
    u = kept.hidden
    density = (u * u * -0.5).exp() * (1 / sqrt(2 * pi))
    inner = _linear_back(grad, _as_linear(of.main[2])) * (kept.cdf + u * density)
    return _norm_back(_linear_back(inner, _as_linear(of.main[0])), of.norm, kept.norm)


def _as_linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _attend(h: Tensor, mask: Tensor, of: Attention) -> tuple[Tensor, _Attended]:
    x, norm = _norm(h, of.norm)
    T, C = h.shape
    H, d = of.num_heads, C // of.num_heads
    q, k, v = (rows.reshape(T, H, d).transpose(0, 1) for rows in _linear(x, of.qkv).chunk(3, -1))
    q = q * d**-0.5
    probabilities = (torch.bmm(q, k.transpose(1, 2)) + mask).softmax(-1)
    y = torch.bmm(probabilities, v)
    merged = y.transpose(0, 1).reshape(T, C)
    return _linear(merged, of.proj), _Attended(norm, q, k, v, probabilities, y)


def _attend_back(grad: Tensor, of: Attention, kept: _Attended) -> Tensor:
    H, T, d = kept.y.shape
    grad = _linear_back(grad, of.proj).reshape(T, H, d).transpose(0, 1)
    grad_v = torch.bmm(kept.probabilities.transpose(1, 2), grad)
    # The softmax's row sum(grad_p * p) equals sum(grad * y) over the head's d values.
    row = (grad * kept.y).sum(-1, keepdim=True)
    grad_logits = kept.probabilities * (torch.bmm(grad, kept.v.transpose(1, 2)) - row)
    grad_q = torch.bmm(grad_logits, kept.k) * d**-0.5
    grad_k = torch.bmm(grad_logits.transpose(1, 2), kept.q)
    merged = [g.transpose(0, 1).reshape(T, H * d) for g in (grad_q, grad_k, grad_v)]
    return _norm_back(_linear_back(torch.cat(merged, -1), of.qkv), of.norm, kept.norm)
