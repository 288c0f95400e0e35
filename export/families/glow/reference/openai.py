"""openai's port as it computes, with the channels first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model import StepSpec
from .base import Parts, Reference, Step, log_abs_det, log_sigmoid_scale, one_hot


class _OpenAIStep(Step):
    def _actnorm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _centred(x, self.p, ""), 3 * self.p["actnorm_scale/logs"].sum()

    def _undo_actnorm(self, x: Tensor) -> Tensor:
        logs, b = (self.p[n].flatten()[:, None, None] for n in _ACTNORM)
        return x * (-3 * logs).exp() - b

    def _weight(self) -> tuple[Tensor, Tensor]:
        if "invconv/W" in self.p:  # z @ W with the channels last
            return self.p["invconv/W"].T, log_abs_det(self.p["invconv/W"])
        logs = self.p["actnorm_scale/logs"]
        identity = torch.eye(logs.shape[-1], dtype=logs.dtype)
        none = torch.zeros((), dtype=logs.dtype)
        if "shuffle/indices" in self.p:
            return identity[self.p["shuffle/indices"].long()], none
        return identity.flip(0), none

    def _couple(self, a: Tensor) -> tuple[Tensor, Tensor]:
        h = _centred(_edged(a, self.p["f1/l_1/W"]), self.p, "f1/l_1/").relu()
        h = _centred(F.conv2d(h, self.p["f1/l_2/W"].permute(3, 2, 0, 1)), self.p, "f1/l_2/").relu()
        h = _edge_gained(h, self.p, "f1/l_last/")
        if not self.affine:
            return h, torch.zeros_like(h)
        return h[:, 0::2], log_sigmoid_scale(h[:, 1::2])


class OpenAI(Reference):
    def _step_parts(self, level: int, step: int) -> Parts:
        return self._parts(f"{level}/{step}/")

    def _make_step(self, parts: Parts, spec: StepSpec) -> Step:
        return _OpenAIStep(parts, spec.is_affine)

    def _prior(
        self, level: int, h: Tensor | None, z: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        if h is not None:
            found = _edge_gained(h, self._parts(f"pool{level}/conv/"), "")
            return found[:, 0::2], found[:, 1::2]
        both = torch.cat([torch.zeros_like(z)] * 2, 1)
        if learned := self._parts("prior/p/"):
            both = _edge_gained(both, learned, "")
        if table := self._parts("prior/y_emb/"):
            rows = (one_hot(labels, self) @ table["W"] + table["b"]) * (3 * table["logs"]).exp()
            both = both + rows[:, :, None, None]
        mean, log_std = both.chunk(2, 1)
        return mean, log_std


_ACTNORM = ("actnorm_scale/logs", "actnorm_center/b")


def _centred(x: Tensor, p: Parts, prefix: str) -> Tensor:
    logs, b = (p[f"{prefix}{n}"].flatten()[:, None, None] for n in _ACTNORM)
    return (x + b) * (3 * logs).exp()


def _edged(x: Tensor, W: Tensor) -> Tensor:
    """A convolution of x and a channel that is one on the padding and zero in the picture."""
    edge = F.pad(torch.zeros_like(x[:, :1]), (1, 1, 1, 1), value=1.0)
    return F.conv2d(torch.cat([F.pad(x, (1, 1, 1, 1)), edge], 1), W.permute(3, 2, 0, 1))


def _edge_gained(x: Tensor, p: Parts, prefix: str) -> Tensor:
    b, logs = (p[f"{prefix}{n}"].flatten()[:, None, None] for n in ("b", "logs"))
    return (_edged(x, p[f"{prefix}W"]) + b) * (3 * logs).exp()
