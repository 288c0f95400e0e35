"""The published network as torch modules, so that a call costs what it costs its users.

Linear, LayerNorm, GELU and Sequential are called as modules, norms cast to float32 and back, keys
and values grow in lists that every layer concatenates at every call, as in apple/ml-tarflow. The
same sums on bare tensors take two thirds of the time: nobody who samples a TarFlow has that.

Measured against the published ``Model.reverse`` itself, taking turns on one thread of a busy 2-core
x86-64 machine with torch 2.13 (Fashion-MNIST model, 19 pictures, median of the ratios of pairs):
0.95 of its time without guidance, 1.03 with guidance 2; the pictures were bit-identical.

This is the only module of the benchmarks that imports torch; ``baseline.py`` asks for it by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..runtime.spec import ARBlock

BRANCHES = ("cond", "uncond")


class _Attention(nn.Module):
    """Causal attention over its own cache, one list of keys and one of values for each branch."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.keys: dict[str, list[Tensor]] = {}
        self.values: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor, temperature: float, branch: str) -> Tensor:
        """x: [N, W, C]."""
        N, W, C = x.size()
        x = self.norm(x.float()).type(x.dtype)
        heads = self.qkv(x).reshape(N, W, 3 * self.num_heads, -1).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        self.keys[branch].append(k)
        self.values[branch].append(v)
        k = torch.cat(self.keys[branch], dim=2)
        v = torch.cat(self.values[branch], dim=2)
        seen = None  # one patch sees all before it
        if W > 1:
            T = k.size(2)
            seen = torch.ones(W, T, dtype=torch.bool).tril(T - W)
        x = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=self.scale / temperature
        )
        found: Tensor = self.proj(x.transpose(1, 2).reshape(N, W, C))
        return found


class _MLP(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.main = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.main(self.norm(x.float()).type(x.dtype))
        return found


class _Layer(nn.Module):
    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = _Attention(channels, num_heads)
        self.mlp = _MLP(channels, hidden)

    def forward(self, x: Tensor, temperature: float, branch: str) -> Tensor:
        x = x + self.attention(x, temperature, branch)
        found: Tensor = x + self.mlp(x)
        return found


class BlockNetwork(nn.Module):
    """One block: patches to the affine parameters of the patches after them.

    Args:
        spec: of the block.
        weights: by the checkpoint's names, ``proj_in.weight`` and so on.
        pos: [T, C] position rows in the block's own order.
        classes: [classes + 1, C], the mean row last; [1, C] of zeros where there are no classes.
    """

    pos: Tensor
    classes: Tensor

    def __init__(
        self, spec: ARBlock, weights: Mapping[str, Tensor], pos: Tensor, classes: Tensor
    ) -> None:
        super().__init__()
        C, outputs = spec.channels, len(weights["proj_out.bias"])
        hidden = len(weights["attn_blocks.0.mlp.main.0.bias"])
        self.proj_in = nn.Linear(weights["proj_in.weight"].shape[1], C)
        self.attn_blocks = nn.ModuleList(
            _Layer(C, spec.num_heads, hidden) for _ in range(spec.num_layers)
        )
        self.proj_out = nn.Linear(C, outputs)
        self.load_state_dict(dict(weights), assign=True)
        self.requires_grad_(False).eval()
        self.volume_preserving = spec.scale == "none"
        # not buffers: the state has the names of the checkpoint
        self.pos, self.classes = pos, classes[:, None]

    def forward(
        self, x: Tensor, position: int, labels: Tensor | None, temperature: float, branch: str
    ) -> tuple[Tensor, Tensor]:
        """(xa, xb) [N, W, D] of patches position+1.. from x [N, W, D]; no labels: the mean class.

        The reference takes the mean at every call as well.
        """
        x = self.proj_in(x) + self.pos[position : position + x.size(1)]
        if len(self.classes) == 1:  # no classes: the row is zeros, and the reference adds nothing
            pass
        elif labels is None:
            x = x + self.classes[:-1].mean(dim=0)
        else:
            x = x + self.classes[labels]
        for layer in self.attn_blocks:
            x = layer(x, temperature, branch)
        x = self.proj_out(x)
        if self.volume_preserving:
            return torch.zeros_like(x), x
        xa, xb = x.chunk(2, dim=-1)
        return xa, xb

    def forget(self) -> None:
        """Empty all caches."""
        for module in self.modules():
            if isinstance(module, _Attention):
                module.keys = {branch: [] for branch in BRANCHES}
                module.values = {branch: [] for branch in BRANCHES}

    def drop_last(self) -> None:
        """Forget the last call of each branch that was called."""
        for module in self.modules():
            if isinstance(module, _Attention):
                for rows in (*module.keys.values(), *module.values.values()):
                    del rows[-1:]
