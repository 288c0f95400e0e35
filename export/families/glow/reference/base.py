"""What the references of all ports have in common: levels, steps, priors, and likelihood.

Tensors are read level by level and step by step, so that any size fits into memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .....runtime.errors import CheckpointError
from ..model import GlowModel, StepSpec

Parts = dict[str, Tensor]


class Reference(ABC):
    """A port's model.

    Args:
        model: names the checkpoint's tensors and says what the user said.
        dtype: that it computes in.
    """

    def __init__(self, model: GlowModel, dtype: torch.dtype = torch.float32) -> None:
        self.config, self.dtype = model.config, dtype
        self._reader: Any = model.reader

    @torch.no_grad()
    def decode(
        self,
        eps: Sequence[Tensor],
        temperature: float = 1.0,
        labels: Sequence[int] | None = None,
    ) -> Tensor:
        """Data [N, C, H, W] of latents, the finest first; each is multiplied by the temperature."""
        x: Tensor | None = None
        for i in reversed(range(len(self.config.levels))):
            noise = eps[i].to(self.dtype)
            mean, log_std = self._prior(i, x, noise, labels)
            z = mean + log_std.exp() * (temperature * noise)
            x = z if x is None else torch.cat([x, z], 1)
            for k in reversed(range(len(self.config.levels[i].steps))):
                x = self._step(i, k).reverse(x)
            x = unsqueeze(x)
        assert x is not None
        return self._finite(self._outside(x))

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Sequence[int] | None = None) -> tuple[list[Tensor], Tensor]:
        """Latents, the finest first, and log |d eps / dx| [N] as a mean over the D values."""
        x = self._inside(x.to(self.dtype))
        total = torch.zeros(len(x), dtype=torch.float64)
        found = []
        for i, level in enumerate(self.config.levels):
            x = squeeze(x)
            for k in range(len(level.steps)):
                x, logdet = self._step(i, k).forward(x)
                total = total + logdet.double()
            top = i == len(self.config.levels) - 1
            x, z = (x, x) if top else x.chunk(2, 1)
            mean, log_std = self._prior(i, None if top else x, z, labels)
            found.append(self._finite((z - mean) / log_std.exp()))
            total = total - log_std.expand_as(z).double().sum((1, 2, 3))
        return found, total / self.config.num_values

    def bits_per_dim(self, x: Tensor, labels: Sequence[int] | None = None) -> Tensor:
        """[N] bits per value of data with noise, discretisation included."""
        eps, logdet = self.encode(x, labels)
        squares = torch.stack([(e.double() ** 2).sum((1, 2, 3)) for e in eps]).sum(0)
        nll = squares / (2 * self.config.num_values) + 0.5 * log(2 * pi) - logdet
        return nll / log(2) + self.config.pixels.n_bits

    def _step(self, level: int, step: int) -> Step:
        spec = self.config.levels[level].steps[step]
        return self._make_step(self._step_parts(level, step), spec)

    def _parts(self, prefix: str) -> Parts:
        found = self._reader.tensors.under(prefix)
        return {name: torch.from_numpy(array).to(self.dtype) for name, array in found.items()}

    @abstractmethod
    def _step_parts(self, level: int, step: int) -> Parts: ...

    @abstractmethod
    def _make_step(self, parts: Parts, spec: StepSpec) -> Step: ...

    @abstractmethod
    def _prior(
        self, level: int, h: Tensor | None, z: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log of the deviation of ``z``, whose values do not matter."""

    def _inside(self, x: Tensor) -> Tensor:
        return x

    def _outside(self, x: Tensor) -> Tensor:
        return x

    def _finite(self, x: Tensor) -> Tensor:
        if not x.isfinite().all():
            raise CheckpointError("the model gives NaN or infinity")
        return x


class Step(ABC):
    """One flow step: actnorm, 1x1 convolution, coupling."""

    def __init__(self, parts: Parts, affine: bool) -> None:
        self.p, self.affine = parts, affine
        self.W, self.log_det_W = self._weight()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, and the step's log-determinant [N]."""
        area = x.shape[2] * x.shape[3]
        x, log_scale = self._actnorm(x)
        x = torch.einsum("oi,nihw->nohw", self.W, x)
        a, b = x.chunk(2, 1)
        shift, log_s = self._couple(a)
        b = (b + shift) * log_s.exp()
        constant = (log_scale + self.log_det_W).double() * area
        return torch.cat([a, b], 1), constant + log_s.double().sum((1, 2, 3))

    def reverse(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        shift, log_s = self._couple(a)
        b = b * (-log_s).exp() - shift
        inverse = torch.linalg.inv(self.W.double()).to(x.dtype)
        return self._undo_actnorm(torch.einsum("oi,nihw->nohw", inverse, torch.cat([a, b], 1)))

    @abstractmethod
    def _actnorm(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _undo_actnorm(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _weight(self) -> tuple[Tensor, Tensor]:
        """Of the 1x1 convolution, and the log of its determinant."""

    @abstractmethod
    def _couple(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """shift and log s of (b + shift) * s; both [N, C / 2, H, W]."""


def squeeze(x: Tensor) -> Tensor:
    N, C, H, W = x.shape
    x = x.view(N, C, H // 2, 2, W // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(N, 4 * C, H // 2, W // 2)


def unsqueeze(x: Tensor) -> Tensor:
    N, C, H, W = x.shape
    x = x.view(N, C // 4, 2, 2, H, W).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(N, C // 4, 2 * H, 2 * W)


def assembled(p: Tensor, lower: Tensor, upper: Tensor, sign: Tensor, log_s: Tensor) -> Tensor:
    ones = torch.eye(len(p), dtype=p.dtype)
    W: Tensor = p @ (lower.tril(-1) + ones) @ (upper.triu(1) + torch.diag(sign * log_s.exp()))
    return W


def log_abs_det(W: Tensor) -> Tensor:
    value: Tensor = torch.linalg.slogdet(W.double())[1]
    return value.to(W.dtype)


def log_sigmoid_scale(u: Tensor) -> Tensor:
    return F.logsigmoid(u + 2.0)


def one_hot(labels: Sequence[int] | None, reference: Reference) -> Tensor:
    assert labels is not None, "a conditional model needs labels"
    rows = F.one_hot(torch.as_tensor(labels).long(), reference.config.num_classes)
    return rows.to(reference.dtype)
