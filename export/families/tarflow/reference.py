"""TarFlow's network in torch, written anew from the paper and the checkpoint's shapes: the float32
reference that every exported artifact is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import LAYER_NORM_EPSILON, TarFlowConfig

KVCache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Causal multi-head self-attention with its LayerNorm; rows of qkv are q, k, v."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPSILON)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, q_scale: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        N, W, C = x.shape
        qkv = self.qkv(self.norm(x)).reshape(N, W, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, H, W, head_dim]
        if q_scale is not None:
            q = q * q_scale[:, None, None, None]
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(W, k.shape[2], dtype=torch.bool).tril(k.shape[2] - W)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(N, W, C)), (k, v)


class MLP(nn.Module):
    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPSILON)
        self.main = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.GELU(),
            nn.Linear(expansion * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(self.norm(x))
        return y


class Layer(nn.Module):
    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.attention = Attention(config.channels, config.num_heads)
        self.mlp = MLP(config.channels, config.expansion)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, q_scale: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, cache = self.attention(x, past, q_scale)
        x = x + y
        return x + self.mlp(x), cache


class TarFlowBlock(nn.Module):
    """One block as every engine sees it: a window of patches to the affine parameters that follow.

    Names of parameters are the checkpoint's. The embedding tables are host data: the rows
    (position + class) come in as ``context``.
    """

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.proj_in = nn.Linear(config.patch_dim, config.channels)
        self.attn_blocks = nn.ModuleList([Layer(config) for _ in range(config.layers_per_block)])
        self.proj_out = nn.Linear(config.channels, config.output_dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        past: KVCache | None = None,
        q_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, KVCache]:
        """Patches p..p+W-1 to (xa, xb) of the patches p+1..p+W, all in the block's own order.

        Args:
            x: [N, W, D] patches.
            context: [N, W, C] position + class rows.
            past: keys and values of the patches before, from the previous call.
            q_scale: [N] factor on the queries (1 / attn_temp), or None.

        Returns:
            xa [N, W, D] (zeros when not nvp), xb [N, W, D], and the cache for the next call.
        """
        h, caches = self.proj_in(x) + context, []
        for i, layer in enumerate(self.attn_blocks):
            h, cache = layer(h, past[i] if past else None, q_scale)
            caches.append(cache)
        y = self.proj_out(h)
        if not self.config.nvp:
            return torch.zeros_like(y), y, caches
        xa, xb = y.chunk(2, -1)
        return xa, xb, caches
