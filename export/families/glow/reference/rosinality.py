"""rosinality's port as it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model import StepSpec
from .base import Parts, Reference, Step, assembled, log_abs_det, log_sigmoid_scale


class _RosinalityStep(Step):
    def _actnorm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale, loc = self.p["actnorm.scale"], self.p["actnorm.loc"]
        return scale * (x + loc), scale.abs().log().sum()

    def _undo_actnorm(self, x: Tensor) -> Tensor:
        return x / self.p["actnorm.scale"] - self.p["actnorm.loc"]

    def _weight(self) -> tuple[Tensor, Tensor]:
        if "invconv.weight" in self.p:
            W = self.p["invconv.weight"].flatten(1)
            return W, log_abs_det(W)
        names = ("w_p", "w_l", "w_u", "s_sign", "w_s")
        return assembled(*(self.p[f"invconv.{n}"] for n in names)), self.p["invconv.w_s"].sum()

    def _couple(self, a: Tensor) -> tuple[Tensor, Tensor]:
        net = "coupling.net."
        h = F.conv2d(a, self.p[f"{net}0.weight"], self.p[f"{net}0.bias"], padding=1).relu()
        h = F.conv2d(h, self.p[f"{net}2.weight"], self.p[f"{net}2.bias"]).relu()
        h = _padded_with_ones(h, self.p, f"{net}4.")
        if not self.affine:
            return h, torch.zeros_like(h)
        u, shift = h.chunk(2, 1)
        return shift, log_sigmoid_scale(u)


class Rosinality(Reference):
    def _step_parts(self, level: int, step: int) -> Parts:
        return self._parts(f"blocks.{level}.flows.{step}.")

    def _make_step(self, parts: Parts, spec: StepSpec) -> Step:
        return _RosinalityStep(parts, spec.is_affine)

    def _prior(
        self, level: int, h: Tensor | None, z: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        seen = torch.zeros_like(z) if h is None else h
        found = _padded_with_ones(seen, self._parts(f"blocks.{level}.prior."), "")
        mean, log_std = found.chunk(2, 1)
        return mean, log_std


def _padded_with_ones(x: Tensor, p: Parts, prefix: str) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), value=1.0)
    h = F.conv2d(padded, p[f"{prefix}conv.weight"], p[f"{prefix}conv.bias"])
    return h * (3 * p[f"{prefix}scale"]).exp()
