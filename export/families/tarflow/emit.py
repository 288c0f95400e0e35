"""TarFlow's network, once for all targets."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Cache, Dim, Network, Value
from .config import LAYER_NORM_EPSILON, TarFlowConfig


def emit_step(
    config: TarFlowConfig, lead: Sequence[Dim], *, cached: bool = True, pair: bool = False
) -> Network:
    """Patches p..p+W-1 of a block to the affine parameters of the patches p+1..p+W, in the block's
    own order.

    Inputs x [*lead, D] and context [*lead, C] (position + class rows), with W the last of ``lead``.
    Output: ``ab`` [*lead, 2D], the log scales xa and the shifts xb in a row (xb alone where the
    model only adds).

    Args:
        cached: over a KV cache of T rows; otherwise the window is the whole sequence.
        pair: ``xa`` and ``xb`` [*lead, D] are outputs of their own.
    """
    g, c = Network("step"), config
    x, context = g.input("x", (*lead, c.patch_dim)), g.input("context", (*lead, c.channels))
    h = g.add(_linear(g, x, "proj_in", c.channels), context)
    for i in range(c.layers_per_block):
        p = f"attn_blocks.{i}"
        y = _linear(g, _norm(g, h, f"{p}.attention.norm"), f"{p}.attention.qkv", 3 * c.channels)
        q, k, v = g.split(y, (c.channels,) * 3, -1)
        cache = Cache(str(i), c.num_patches, c.num_heads, c.head_dim) if cached else None
        y = g.attention(q, k, v, heads=c.num_heads, cache=cache)
        h = g.add(h, _linear(g, y, f"{p}.attention.proj", c.channels))
        y = _linear(g, _norm(g, h, f"{p}.mlp.norm"), f"{p}.mlp.main.0", c.expansion * c.channels)
        y = _linear(g, g.apply("gelu", y), f"{p}.mlp.main.2", c.channels)
        h = g.mark(g.add(h, y))
    y = _linear(g, h, "proj_out", c.output_dim)
    outputs = {"ab": y} if not pair else {"xb": y}
    if pair and c.nvp:
        outputs = dict(zip(("xa", "xb"), g.halves(y, -1), strict=True))
    for name, value in outputs.items():
        g.output(name, value)
    return g


def _linear(g: Network, x: Value, name: str, out: int) -> Value:
    columns = x.shape[-1]
    assert isinstance(columns, int)
    return g.linear(x, g.weight(f"{name}.weight", (out, columns)), g.weight(f"{name}.bias", (out,)))


def _norm(g: Network, x: Value, name: str) -> Value:
    size = x.shape[-1]
    assert isinstance(size, int)
    weight, bias = g.weight(f"{name}.weight", (size,)), g.weight(f"{name}.bias", (size,))
    return g.layer_norm(x, weight, bias, LAYER_NORM_EPSILON)
