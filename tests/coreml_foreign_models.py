"""Torch models as other people convert them: one for each kind of operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tensors = tuple[Tensor, ...]


class Convolutional(nn.Module):
    """Strided, grouped and transposed convolution, batch, group and instance norm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.batch = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.grouped, self.group = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8)
        self.instance, self.up = (
            nn.InstanceNorm2d(8, affine=True),
            nn.ConvTranspose2d(8, 4, 4, 2, 1),
        )
        self.head = nn.Linear(4, 5)
        generator = torch.Generator().manual_seed(1)
        for buffer in (self.batch.running_mean, self.batch.running_var):
            assert buffer is not None
            buffer.copy_(torch.rand(8, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensors:
        x = F.max_pool2d(F.relu(self.batch(self.first(x))), 3, 2, 1)
        x = F.avg_pool2d(self.group(F.hardswish(self.grouped(x))), 2, 2)
        x = F.leaky_relu(self.up(self.instance(x)), 0.1)
        large = F.pad(F.interpolate(x, scale_factor=2.0), (1, 1, 2, 0), mode="reflect")
        head: Tensor = self.head(F.elu(F.adaptive_avg_pool2d(large, 1).flatten(1)))
        return head, large


class Sequence1d(nn.Module):
    """Dilated convolution of one dimension, padding that averages leave out, ceil mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.batch = nn.Conv1d(4, 6, 3, padding=2, dilation=2), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensors:
        x = F.relu6(self.batch(self.conv(x)))
        mean = F.avg_pool1d(x, 3, 2, 1, count_include_pad=False)
        return mean, F.avg_pool1d(x, 4, 3, 1), F.max_pool1d(x, 2, ceil_mode=True)


class Resized(nn.Module):
    """Bilinear interpolation on both grids; blocks of pixels to channels and back."""

    def forward(self, x: Tensor) -> Tensors:
        large = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        aligned = F.interpolate(x, size=(11, 9), mode="bilinear", align_corners=True)
        return F.pixel_shuffle(large, 2), F.pixel_unshuffle(large, 2), aligned


class Embedded(nn.Module):
    """Rows of a table, and einsum of rank 3 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table(x)
        scores = torch.einsum("bld,bmd->blm", rows, rows)
        heads = rows.reshape(2, 5, 2, 4)
        across = torch.einsum("nchw,nwhu->nchu", heads, heads.reshape(2, 4, 2, 5))
        return torch.einsum("blm,bmhc->blhc", scores, heads) + across.mean(-1, keepdim=True)


class Reduced(nn.Module):
    """Reductions, softmax, sorting."""

    def forward(self, x: Tensor) -> Tensors:
        order = x.argmax(-1).float() + 10 * x.argmin(-1).float()
        norms = x.norm(dim=-1) + x.norm(p=1, dim=-1) + x.abs().sum(-1).sqrt()
        return (
            x.sum(-1, keepdim=True),
            x.mean((0, 1)),
            x.amin(1),
            torch.logsumexp(x, -1),
            norms,
            order,
            x.std(-1) + x.pow(2).sum(-1),
            F.normalize(x, dim=-1),
            torch.cumsum(x, -1),
            torch.topk(x, 3, -1)[0],
            torch.sort(x, -1)[0],
            F.softmax(x, 1) - F.log_softmax(x, -1),
        )


class Activated(nn.Module):
    """Layer norm, root mean square norm, GELU and its relatives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)
        self.slope = nn.Parameter(torch.linspace(0.1, 1.5, 16))

    def forward(self, x: Tensor) -> Tensors:
        y = self.linear(self.norm(x))
        gelu = F.gelu(y) + F.gelu(y, approximate="tanh")
        soft = F.silu(y) + F.mish(y) + F.softsign(y) + F.hardsigmoid(y) + F.threshold(y, 0.1, 0.0)
        prelu = F.prelu(y.transpose(1, 2).unsqueeze(-1), self.slope)
        rms = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.slope
        return gelu, soft, prelu, rms, F.elu(y, 0.5) + F.hardtanh(y) + F.softplus(y, 2.0)


class Moved(nn.Module):
    """What only moves values: concat, split, slices, pad, where, gather, scatter."""

    def __init__(self) -> None:
        super().__init__()
        self.places = torch.tensor([[[0, 1, 2, 3]], [[3, 2, 1, 0]]])

    def forward(self, x: Tensor) -> Tensors:
        both = torch.cat([x, x.flip(1)], -1)
        first, second = both.split([3, 5], -1)  # type: ignore[no-untyped-call]
        chosen = torch.stack([torch.where(first > 0, first, -first), 2 * first], 1)
        return (
            second,
            F.pad(chosen[:, 0, 1:, ::2], (1, 1), value=2.0),
            x[..., -1].unsqueeze(-1).expand(2, 6, 5),
            torch.roll(x, 1, 1),
            x.tril() + x.triu(1),
            x.repeat(1, 2, 1),
            torch.gather(x, 1, self.places),
            x.index_select(1, torch.tensor([2, 0])),
            x.masked_fill(x > 1, 0.0).clamp(-0.5, 0.5),
            x.permute(2, 0, 1).reshape(4, -1).chunk(2, 0)[1],
            x.unbind(1)[1],
        )


class Elementwise(nn.Module):
    """One function after the other."""

    def forward(self, x: Tensor) -> Tensors:
        p, small = x.abs() + 0.5, x * 0.2
        truth = torch.logical_xor(torch.logical_or(x > 2, torch.logical_and(x > 0, x < 1)), x >= 1)
        return (
            x // 0.7 + x % 0.7,
            torch.floor(x) + torch.ceil(x) + torch.round(x) + torch.sign(x),
            p.log() + p.sqrt() + p**1.5 + torch.log1p(p),
            torch.atan(x) + torch.tan(small) + torch.asin(small) + torch.acos(small),
            torch.sinh(x) + torch.cosh(x) + torch.tanh(x) + torch.atanh(small),
            torch.erf(x) + torch.exp2(x) + torch.expm1(x) + torch.sin(x) + torch.cos(x),
            torch.maximum(x, -x) - torch.minimum(x, small),
            torch.logical_not(truth).float() + (x == x).float() + (x != p).float(),
            (x <= 0).float(),
        )


class Cached(nn.Module):
    """One step of attention over a cache which is a buffer; x is a row for the next place."""

    length, channels = 8, 16
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(self.channels, 3 * self.channels)
        self.register_buffer("keys", torch.zeros(1, self.length, self.channels))
        self.register_buffer("values", torch.zeros(1, self.length, self.channels))

    def forward(self, x: Tensor, write: Tensor) -> Tensor:
        """x [1, 1, C]; write [1, length, 1] is 1 where the row goes."""
        q, k, v = self.qkv(x).split(self.channels, -1)
        self.keys[:, :, :] = self.keys * (1 - write) + k * write
        self.values[:, :, :] = self.values * (1 - write) + v * write
        scores = (q @ self.keys.transpose(1, 2)) / 4.0
        result: Tensor = scores.softmax(-1) @ self.values
        return result


def foreign_models() -> dict[str, tuple[nn.Module, Tensor]]:
    """Each model with an input, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "convolution": (Convolutional(), torch.randn(2, 3, 32, 32)),
            "sequence": (Sequence1d(), torch.randn(2, 4, 21)),
            "resizing": (Resized(), torch.randn(1, 4, 6, 5)),
            "embedding": (Embedded(), torch.randint(0, 17, (2, 5), dtype=torch.int32)),
            "reductions": (Reduced(), torch.randn(2, 3, 5)),
            "activations": (Activated(), torch.randn(2, 3, 16)),
            "movement": (Moved(), torch.randn(2, 6, 4)),
            "elementwise": (Elementwise(), torch.randn(3, 7)),
        }
