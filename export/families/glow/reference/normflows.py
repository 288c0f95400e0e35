"""normflows as it computes; what it calls inverse is our forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model import StepSpec
from .base import Parts, Reference, Step, assembled, log_abs_det, log_sigmoid_scale, one_hot


class _NormflowsStep(Step):
    """Backwards: what the library calls inverse is our forward."""

    def __init__(self, parts: Parts, affine: bool, scale_map: str, slope: float) -> None:
        self.scale_map, self.slope = scale_map, slope
        super().__init__(parts, affine)

    def _actnorm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.p["flows.2.s"]
        return (x - self.p["flows.2.t"]) * (-s).exp(), -s.sum()

    def _undo_actnorm(self, x: Tensor) -> Tensor:
        return x * self.p["flows.2.s"].exp() + self.p["flows.2.t"]

    def _weight(self) -> tuple[Tensor, Tensor]:
        if "flows.1.W" in self.p:
            return self.p["flows.1.W"], log_abs_det(self.p["flows.1.W"])
        names = ("P", "L", "U", "sign_S", "log_S")
        return assembled(*(self.p[f"flows.1.{n}"] for n in names)), self.p["flows.1.log_S"].sum()

    def _couple(self, a: Tensor) -> tuple[Tensor, Tensor]:
        h = self._network(a)
        if not self.affine:
            return -h, torch.zeros_like(h)
        shift, u = h[:, 0::2], h[:, 1::2]
        if self.scale_map == "exp":
            return -shift, -u
        return -shift, log_sigmoid_scale(u) * (1 if self.scale_map == "sigmoid" else -1)

    def _network(self, h: Tensor) -> Tensor:
        net = "flows.0.flows.1.param_map.net."
        normed = f"{net}1.actNorm.s" in self.p
        for number in (0, 3, 6) if normed else (0, 2, 4):
            weight = self.p[f"{net}{number}.weight"]
            bias = self.p.get(f"{net}{number}.bias")
            h = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)
            if f"{net}{number + 1}.actNorm.s" in self.p:
                actnorm = f"{net}{number + 1}.actNorm."
                h = h * self.p[f"{actnorm}s"].exp() + self.p[f"{actnorm}t"]
            if number not in (4, 6):
                h = F.leaky_relu(h, self.slope)
        return h


class Normflows(Reference):
    def _step_parts(self, level: int, step: int) -> Parts:
        levels = self.config.levels
        block = len(levels[level].steps) - 1 - step
        return self._parts(f"flows.{len(levels) - 1 - level}.{block}.")

    def _make_step(self, parts: Parts, spec: StepSpec) -> Step:
        return _NormflowsStep(parts, spec.is_affine, spec.scale_map, self.config.slope)

    def _inside(self, x: Tensor) -> Tensor:
        return x - 0.5 if self._reader.shifted else x

    def _outside(self, x: Tensor) -> Tensor:
        return x + 0.5 if self._reader.shifted else x

    def _prior(
        self, level: int, h: Tensor | None, z: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        p = self._parts(f"q0.{len(self.config.levels) - 1 - level}.")
        mean, log_std = (self._values(p, name, z, labels) for name in ("loc", "log_scale"))
        return mean, log_std

    def _values(self, p: Parts, name: str, z: Tensor, labels: Sequence[int] | None) -> Tensor:
        values = p[name]
        if f"{name}_logs" in p:
            values = values * (3 * p[f"{name}_logs"]).exp()
            if f"{name}_cc" in p:
                values = values + (one_hot(labels, self) @ p[f"{name}_cc"])[:, :, None, None]
        elif values.shape[0] != 1:
            values = (values @ one_hot(labels, self).T).permute(3, 0, 1, 2)
        return values.expand_as(z)
