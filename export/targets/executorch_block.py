"""The step of one autoregressive block as a torch module that ExecuTorch lowers to XNNPACK.

Plain operators only, so that a program runs in every ExecuTorch build, without the custom operator
library. The KV cache is a mutable buffer of the program: rows are written in place by
``index_put_`` and attention reads all T rows under a mask, so a call costs the same at every
position. Keys are the left operand of their product: XNNPACK packs the right one on every call,
and the query is the small one (1.0 against 1.15 ms for one layer of 768 channels and 1024 rows).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..families import tarflow
from ..families.tarflow import TarFlowBlock

# Added to the logits of rows after a patch. Finite, since a row of -inf would give NaN, and within
# the range of float16.
MASKED = {torch.float32: -1e9, torch.float16: -3e4}


class CachedAttention(nn.Module):
    """Attention of a window over the cache. Buffers k1, v1 [H, T, d] and, for two branches, k2, v2.

    Each number of branches has rows of its own: a slice of a shared buffer would be a copy.
    """

    def __init__(
        self, source: tarflow.Attention, num_patches: int, branches: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.norm, self.qkv, self.proj = source.norm, source.qkv, source.proj
        channels, dtype = source.proj.in_features, source.norm.weight.dtype
        for b in branches:
            for name in "kv":
                shape = (b * self.num_heads, num_patches, channels // self.num_heads)
                self.register_buffer(f"{name}{b}", torch.zeros(shape, dtype=dtype))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor, q_scale: Tensor | None) -> Tensor:
        """x [R, W, C] with R branches, position [W], mask [W, T], q_scale [R] -> [R, W, C]."""
        R, W, C = x.shape
        H, d = self.num_heads, C // self.num_heads
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q = q * d**-0.5
        if q_scale is not None:
            q = q * q_scale.reshape(R, 1, 1)
        q, k, v = (
            rows.reshape(R, W, H, d).transpose(1, 2).reshape(R * H, W, d) for rows in (q, k, v)
        )
        keys: Tensor = self.get_buffer(f"k{R}")
        values: Tensor = self.get_buffer(f"v{R}")
        # Not keys[:, position] = k: torch strips leading dimensions of 1 from the value there, and
        # the in-place kernel then refuses its shape.
        torch.ops.aten.index_put_(keys, [None, position], k)
        torch.ops.aten.index_put_(values, [None, position], v)
        logits = torch.bmm(keys, q.transpose(1, 2)).transpose(1, 2) + mask
        y = torch.bmm(logits.softmax(-1), values)
        y = y.reshape(R, H, W, d).transpose(1, 2).reshape(R, W, C)
        attended: Tensor = self.proj(y)
        return attended


class StepBlock(nn.Module):
    """All step methods of one block: they share its weights and its cache.

    Computes in the data type of the block's weights; inputs and outputs are float32.
    """

    def __init__(self, block: TarFlowBlock, branches: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        T = block.config.num_patches
        layers = [layer for layer in block.attn_blocks if isinstance(layer, tarflow.Layer)]
        self.dtype = layers[0].mlp.norm.weight.dtype  # not that of codes
        self.proj_in, self.proj_out = block.proj_in, block.proj_out
        self.attention = nn.ModuleList(
            [CachedAttention(layer.attention, T, branches) for layer in layers]
        )
        self.mlp = nn.ModuleList([layer.mlp for layer in layers])
        self.rows = nn.Buffer(torch.arange(T, dtype=torch.float32))

    def step(self, x: Tensor, context: Tensor, position: Tensor) -> Tensor:
        """x [1, W, D], context [1, W, C], position int64 [W] -> ab [1, W, output_dim]."""
        return self._window(x, context, position, None)

    def guided(self, x: Tensor, context: Tensor, position: Tensor, q_scale: Tensor) -> Tensor:
        """The same for two branches, x [2, W, D], whose queries q_scale [2] multiplies."""
        return self._window(x, context, position, q_scale.to(self.dtype))

    def _window(
        self, x: Tensor, context: Tensor, position: Tensor, q_scale: Tensor | None
    ) -> Tensor:
        h = self.proj_in(x.to(self.dtype)) + context.to(self.dtype)
        # 0 up to a patch's own row, -1 after it: arithmetic that XNNPACK has, unlike where.
        hidden = (position.to(torch.float32).unsqueeze(-1) - self.rows).clamp(-1, 0)
        mask = (hidden * -MASKED[self.dtype]).to(self.dtype)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            h = h + attention(h, position, mask, q_scale)
            h = h + mlp(h)
        ab: Tensor = self.proj_out(h).to(torch.float32)
        return ab
