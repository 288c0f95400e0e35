"""What each word means, in torch: the definition that targets and reverse rules are tested by.

Works in any float type, with autograd. ExecuTorch lowers modules that run these very rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .graph import Graph, Node
from .vocabulary import MASKED

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "erf": torch.erf,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "sum": lambda x, axes, keepdims: x.sum(axes, keepdim=keepdims),
    "mean": lambda x, axes, keepdims: x.mean(axes, keepdim=keepdims),
    "linear": F.linear,
    "linear_back": torch.matmul,
    "matmul": torch.matmul,
    "conv": lambda x, weight, bias=None, *, padding: F.conv2d(x, weight, bias, padding=padding),
    "transpose": lambda x, perm: x.permute(perm),
    "split": lambda x, sizes, axis: torch.split(x, sizes, axis),
    "concat": lambda *values, axis: torch.cat(values, axis),
    "pixel_shuffle": lambda x, factor: F.pixel_shuffle(x, factor),
    "pixel_unshuffle": lambda x, factor: F.pixel_unshuffle(x, factor),
    "softmax": lambda x: x.softmax(-1),
    "layer_norm": lambda x, w, b, epsilon: F.layer_norm(x, w.shape, w, b, epsilon),
    "rms_norm": lambda x, w, epsilon: F.rms_norm(x, w.shape, w, epsilon),
}


def evaluate(
    graph: Graph, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Run a graph without caches (its window is the whole sequence).

    Args:
        weights: the stored arrays by name; their type is the one it computes in.

    Raises:
        KeyError: an input or a weight is missing.
    """
    first = next((t for t in inputs.values() if t.is_floating_point()), None)
    dtype = first.dtype if first is not None else torch.float32
    lengths = {
        size: int(inputs[name].shape[axis])
        for name, value in graph.inputs.items()
        for axis, size in enumerate(value.shape)
        if isinstance(size, str)
    }
    values = {value: inputs[name] for name, value in graph.inputs.items()}
    for node in graph.nodes:
        found = _run(node, [values[v] for v in node.inputs], weights, lengths, dtype)
        outputs = found if isinstance(found, (tuple, list)) else (found,)
        values.update(zip(node.outputs, outputs, strict=True))
    return {name: values[value] for name, value in graph.outputs.items()}


def _run(
    node: Node,
    inputs: list[Tensor],
    weights: Mapping[str, Tensor],
    lengths: Mapping[str, int],
    dtype: torch.dtype,
) -> Any:
    if node.op == "weight":
        return weights[node.attributes["name"]].to(dtype)
    if node.op == "constant":
        array = torch.from_numpy(node.attributes["array"])
        return array.to(dtype) if array.is_floating_point() else array
    if node.op == "causal_mask":
        return torch.full((node.attributes["length"],) * 2, MASKED, dtype=dtype).triu(1)
    if node.op in ("reshape", "expand"):
        shape = [lengths[s] if isinstance(s, str) else s for s in node.outputs[0].shape]
        return inputs[0].reshape(shape) if node.op == "reshape" else inputs[0].expand(shape)
    return RULES[node.op](*inputs, **node.attributes)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, *, heads: int) -> Tensor:
    """``rotary``."""
    pairs = x.reshape(*x.shape[:-1], heads, -1, 2)  # [..., W, H, d / 2, 2]
    a, b = pairs.unbind(-1)
    c, s = cos.unsqueeze(-2), sin.unsqueeze(-2)  # [W, 1, d / 2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def whole_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int,
    kv_heads: int,
    cache: object = None,
) -> Tensor:
    """``attention`` of a window that is the whole sequence."""
    *_, W, width = q.shape
    d = width // heads

    def split(x: Tensor, number: int) -> Tensor:  # [..., W, H * d] -> [..., H, W, d]
        return x.reshape(*x.shape[:-1], number, d).transpose(-2, -3)

    scaled = split(q, heads) * d**-0.5
    keys, values = (split(x, kv_heads).repeat_interleave(heads // kv_heads, dim=-3) for x in (k, v))
    hidden = torch.ones(W, W, dtype=torch.bool).triu(1)
    logits = (scaled @ keys.transpose(-1, -2)).masked_fill(hidden, float("-inf"))
    attended: Tensor = (logits.softmax(-1) @ values).transpose(-2, -3).reshape(q.shape)
    return attended


RULES["rotary"] = rotate_pairs
RULES["attention"] = whole_attention
