"""GLOW in one form for all ports: levels of affine steps, with everything linear folded together.

Kingma and Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018. From data to
latents a level squeezes 2 x 2 pixels into channels, runs its steps, and gives the second half of
its channels away (the top gives all). A step is x = C x + c, [a | b] = halves of x,
[u | t] = network(a), b = (b + t) * s(u); its network is conv 3x3, act, conv 1x1, act, conv 3x3.
What is given away has the prior N(m, exp(q)^2); its latents are (z - m) exp(-q).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import log
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ....runtime.errors import CheckpointError

Doubles = npt.NDArray[np.float64]
Port = Literal["rosinality", "chaiyujin", "y0ast", "normflows", "openai"]
ScaleMap = Literal["sigmoid", "sigmoid_inv", "exp", "none"]
"""s(u) while encoding: sigmoid(u), 1 / sigmoid(u), exp(-u), or 1 (an additive coupling)."""
Border = Literal["zeros", "ones", "map"]
"""What the convolutions see around a picture: zeros; ones (the last of a network and those of
priors); or a channel that is one there, whose effect is folded into biases of [out, H, W]."""


# ---- arrays ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mixing:
    """x = C x + c: actnorm and invertible 1x1 convolution in one. ``C`` [n, n], ``c`` [n]."""

    C: Doubles
    c: Doubles


@dataclass(frozen=True, eq=False)
class Conv:
    """Weights [out, in, k, k] and bias, [out] or [out, H, W]."""

    weight: Doubles
    bias: Doubles


@dataclass(frozen=True, eq=False)
class FixedPrior:
    """m and q: [n, 1, 1] or [n, H, W], with classes in front where they depend on the class."""

    mean: Doubles
    log_std: Doubles


class GlowReader(Protocol):
    """A port's weights in the common form; each call reads what it gives and keeps nothing."""

    def mixing(self, level: int, step: int) -> Mixing: ...

    def network(self, level: int, step: int) -> tuple[Conv, Conv, Conv]:
        """Rows of the last: [u | t], or t alone."""

    def prior(self, level: int) -> Conv | FixedPrior:
        """Rows of the convolution: [m | q]."""


# ---- sizes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepSpec:
    """One step: width of its network's hidden layers, and its scale."""

    width: int
    scale_map: ScaleMap

    @property
    def is_affine(self) -> bool:
        """Whether it multiplies, and does not add alone."""
        return self.scale_map != "none"


@dataclass(frozen=True)
class PriorSpec:
    """Prior of a level: a convolution of what goes on, N(0, 1), fixed, or one for each class.

    Attributes:
        spatial: a fixed one or those of classes differ from place to place.
    """

    kind: Literal["conv", "standard", "fixed", "classes"]
    spatial: bool = False


@dataclass(frozen=True)
class LevelSpec:
    """A level; 0 is the finest.

    Attributes:
        channels: of its steps (four times those of what it gets).
        height, width: of its steps.
        steps: in the order of encoding.
    """

    channels: int
    height: int
    width: int
    steps: tuple[StepSpec, ...]
    prior: PriorSpec


# ---- pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EightBit:
    """Picture of 8 bits from data: clip(floor(v * scale + offset) * step, 0, 255), where
    v = clip((x - low) / (high - low), 0, 1)."""

    scale: float
    offset: float = 0.0
    step: float = 1.0


@dataclass(frozen=True)
class PixelRules:
    """How a port turns a picture u of 8 bits into data, x = low + floor(u / 2^(8 - n_bits)) /
    divisor + noise_scale * draw, and data into a picture.

    Attributes:
        low, high: range of the data.
        noise: distribution of the draw.
        draw_width: a uniform draw lies in [0, draw_width); a normal one has the deviation 1.
    """

    low: float
    high: float
    n_bits: int
    divisor: float
    noise: Literal["uniform", "normal"]
    draw_width: float
    noise_scale: float
    eight_bit: EightBit

    @property
    def levels(self) -> int:
        """Of grey; bits/dim adds log2(levels / (high - low))."""
        return 1 << self.n_bits


@dataclass(frozen=True)
class OwnNumber:
    """The likelihood as a port prints it: factor * bits/dim + offset.

    Attributes:
        name: the port's own.
        unit: in words.
    """

    name: str
    unit: str
    factor: float
    offset: float


@dataclass(frozen=True)
class GlowConfig:
    """All about a model but its weights.

    Attributes:
        levels: 0 is the finest.
        slope: of the leaky relu in the networks; 0 is relu.
        num_classes: 0 for a model without labels.
        default_temperature: for generating.
        own_number: where the port prints something else than bits/dim.
        num_parameters: trained values.
        dataset: what it was trained on, where the port's sidecar says so.
        assumptions: what neither the files nor the user say, in words.
    """

    port: Port
    in_channels: int
    height: int
    width: int
    levels: tuple[LevelSpec, ...]
    border: Border
    slope: float
    num_classes: int
    pixels: PixelRules
    default_temperature: float
    own_number: OwnNumber | None
    num_parameters: int
    dataset: str | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def num_values(self) -> int:
        """D: values of a picture, and of its latents."""
        return self.in_channels * self.height * self.width

    @property
    def latent_shapes(self) -> dict[str, tuple[int, int, int]]:
        """[C, H, W] of each latent by name: ``eps0`` is the finest, the last is the top."""
        last = len(self.levels) - 1
        return {
            f"eps{i}": (level.channels // (1 if i == last else 2), level.height, level.width)
            for i, level in enumerate(self.levels)
        }

    @property
    def is_affine(self) -> bool:
        return any(step.is_affine for level in self.levels for step in level.steps)


@dataclass(frozen=True)
class GlowModel:
    """A checkpoint in the common form; weights are read and folded step by step, in float64.

    Attributes:
        file_name: for messages.
    """

    file_name: str
    config: GlowConfig
    reader: GlowReader
    _log_abs_dets: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)

    @cached_property
    def logdet_constant(self) -> float:
        """What log |d eps / dx| has for every picture, as a mean over its D values, in nats: of
        the 1x1 convolutions, and of priors that depend on nothing."""
        total = 0.0
        for i, level in enumerate(self.config.levels):
            area = level.height * level.width
            for k in range(len(level.steps)):
                total += area * self.log_abs_det(i, k)
            if level.prior.kind == "fixed":
                prior = self.reader.prior(i)
                assert isinstance(prior, FixedPrior)
                total -= float(prior.log_std.sum()) * (1 if level.prior.spatial else area)
        return total / self.config.num_values

    def log_abs_det(self, level: int, step: int, mixing: Mixing | None = None) -> float:
        """log |det C| of one step; computed once.

        Args:
            mixing: the step's, where it has been read.

        Raises:
            CheckpointError: C cannot be inverted.
        """
        if (level, step) not in self._log_abs_dets:
            C = (mixing or self.reader.mixing(level, step)).C
            with np.errstate(all="ignore"):
                value = float(np.linalg.slogdet(C)[1])
            if not np.isfinite(value):
                raise CheckpointError(
                    f"{self.file_name}: step {step} of level {level} cannot be inverted: its "
                    f"actnorm and 1x1 convolution have log |det| {value}"
                )
            self._log_abs_dets[level, step] = value
        return self._log_abs_dets[level, step]

    def bits_per_dim(self, eps: list[Doubles], logdet: Doubles) -> Doubles:
        """[N] bits per value from latents and the ``logdet`` output of the encode graph."""
        nll = sum((0.5 * e**2).sum((1, 2, 3)) for e in eps) / self.config.num_values
        nll = nll + 0.5 * log(2 * np.pi) - logdet - self.logdet_constant
        rules = self.config.pixels
        bits: Doubles = nll / log(2) + np.log2(rules.levels / (rules.high - rules.low))
        return bits
