"""chaiyujin's and y0ast's ports as they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layout import Layout
from ..model import StepSpec
from .base import Parts, Reference, Step, assembled, log_abs_det, log_sigmoid_scale, one_hot


class _FlowLayersStep(Step):
    """With the names of chaiyujin; y0ast's are translated."""

    def _actnorm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _normed(x, self.p, ""), self.p["actnorm.logs"].sum()

    def _undo_actnorm(self, x: Tensor) -> Tensor:
        return x * (-self.p["actnorm.logs"]).exp() - self.p["actnorm.bias"]

    def _weight(self) -> tuple[Tensor, Tensor]:
        if "invconv.weight" in self.p:
            return self.p["invconv.weight"], log_abs_det(self.p["invconv.weight"])
        if "invconv.p" in self.p:
            names = ("p", "l", "u", "sign_s", "log_s")
            W = assembled(*(self.p[f"invconv.{n}"] for n in names))
            return W, self.p["invconv.log_s"].sum()
        W = torch.eye(self.p["actnorm.logs"].shape[1], dtype=self.p["actnorm.logs"].dtype).flip(0)
        return W, torch.zeros((), dtype=W.dtype)

    def _couple(self, a: Tensor) -> tuple[Tensor, Tensor]:
        h = _normed(F.conv2d(a, self.p["f.0.weight"], padding=1), self.p, "f.0.").relu()
        h = _normed(F.conv2d(h, self.p["f.2.weight"]), self.p, "f.2.").relu()
        h = _gained(h, self.p, "f.4.")
        if not self.affine:
            return h, torch.zeros_like(h)
        return h[:, 0::2], log_sigmoid_scale(h[:, 1::2])


class FlowLayers(Reference):
    @property
    def _layout(self) -> Layout:
        return cast(Layout, self._reader.layout)

    def _parts(self, prefix: str) -> Parts:
        names = {"block": "f", "lower": "l", "upper": "u"}
        found = super()._parts(prefix)
        if self.config.port == "chaiyujin":
            return found
        return {
            ".".join(names.get(p, p) for p in name.split(".") if p not in ("conv", "linear")): t
            for name, t in found.items()
        }

    def _step_parts(self, level: int, step: int) -> Parts:
        return self._parts(self._layout.layer(level, step))

    def _make_step(self, parts: Parts, spec: StepSpec) -> Step:
        return _FlowLayersStep(parts, spec.is_affine)

    def _prior(
        self, level: int, h: Tensor | None, z: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        if h is not None:
            found = _gained(h, self._parts(f"{self._layout.split(level)}conv."), "")
            return found[:, 0::2], found[:, 1::2]
        both = torch.cat([torch.zeros_like(z)] * 2, 1)
        name = "learn_top" if self.config.port == "chaiyujin" else "learn_top_fn"
        if learned := self._parts(f"{name}."):
            both = _gained(both, learned, "")
        if table := self._parts("project_ycond."):
            rows = F.linear(one_hot(labels, self), table["weight"], table["bias"])
            both = both + (rows * (3 * table["logs"]).exp())[:, :, None, None]
        mean, log_std = both.chunk(2, 1)
        return mean, log_std


def _normed(x: Tensor, p: Parts, prefix: str) -> Tensor:
    return (x + p[f"{prefix}actnorm.bias"]) * p[f"{prefix}actnorm.logs"].exp()


def _gained(x: Tensor, p: Parts, prefix: str) -> Tensor:
    h = F.conv2d(x, p[f"{prefix}weight"], p[f"{prefix}bias"], padding=1)
    return h * (3 * p[f"{prefix}logs"]).exp()
