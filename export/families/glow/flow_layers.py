"""What chaiyujin's and y0ast's ports share: one list of layers, actnorms in the networks, crossed
rows, a top prior that may be learned and depend on the class.

``flow.layers`` counts squeeze, K steps, split, squeeze, K steps, and so on; squeezes have no
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....runtime.errors import CheckpointError
from . import folding
from .flags import GlowFlags
from .hparams import Hparams, check_hparams, check_permutation, dataset_of, image_size
from .layout import Dialect, Layout, expected_shapes, layout_of
from .model import (
    Conv,
    Doubles,
    FixedPrior,
    GlowConfig,
    GlowModel,
    Mixing,
    OwnNumber,
    PriorSpec,
)
from .sizes import level_specs, settle_fixed
from .tensors import Tensors


def read_layers(
    tensors: Tensors,
    flags: GlowFlags,
    dialect: Dialect,
    hparams: Hparams | None,
    own_number: OwnNumber | None = None,
) -> GlowModel:
    """The model.

    Args:
        hparams: name and contents of the sidecar that has ``flow_permutation``.
    """
    name = tensors.file_name
    layout = layout_of(tensors, dialect)
    check_permutation(tensors, layout, hparams)
    top = layout.top_channels
    prior_h = tensors.shape("prior_h", 4)
    expected = expected_shapes(layout, dialect) | {"prior_h": (prior_h[0], 2 * top, *prior_h[2:])}
    classifier = [n for n in tensors.shapes if n.startswith("project_class.")]
    tensors.check(expected, dialect.port, unused=classifier)
    if np.any(tensors.read(["prior_h"])["prior_h"]):
        raise CheckpointError(
            f"{name}: prior_h is not zero everywhere, as the port requires it to be"
        )
    size = image_size(tensors, layout, flags, hparams)
    if hparams:
        check_hparams(tensors, layout, hparams)
    settle_fixed(name, dialect.port, flags, n_bits=8, shifted=dialect.pixels.low < 0)
    kind: Any = "classes" if layout.num_classes else "fixed" if layout.learn_top else "standard"
    priors = [PriorSpec("conv")] * (len(layout.steps) - 1) + [PriorSpec(kind)]
    levels = level_specs(size, layout.in_channels, layout.steps, priors)
    affine = any(step.is_affine for level in levels for step in level.steps)
    unused = ("prior_h", ".p", ".sign_s")
    config = GlowConfig(
        port=dialect.port,
        in_channels=layout.in_channels,
        height=size[0],
        width=size[1],
        levels=levels,
        border="zeros",
        slope=0.0,
        num_classes=layout.num_classes,
        pixels=dialect.pixels,
        default_temperature=0.7 if affine else dialect.additive_temperature,
        own_number=own_number,
        num_parameters=tensors.num_values(lambda n: not n.endswith(unused)),
        dataset=dataset_of(hparams),
    )
    return GlowModel(name, config, Reader(tensors, config, layout, dialect))


@dataclass(frozen=True)
class Reader:
    """See GlowReader."""

    tensors: Tensors
    config: GlowConfig
    layout: Layout
    dialect: Dialect

    def mixing(self, level: int, step: int) -> Mixing:
        prefix, d = self.layout.layer(level, step), self.dialect
        actnorm = self.tensors.under(prefix + "actnorm.")
        conv = self.tensors.under(prefix + "invconv.")
        scale, bias = np.exp(actnorm["logs"].reshape(-1)), actnorm["bias"].reshape(-1)
        if not conv:
            W = np.eye(len(scale))[::-1]
        elif "weight" in conv:
            W = conv["weight"]
        else:
            W = folding.lu_matrix(*(conv[n] for n in ("p", d.lower, d.upper, "sign_s", "log_s")))
        return folding.mixing(W, scale, bias)

    def network(self, level: int, step: int) -> tuple[Conv, Conv, Conv]:
        d = self.dialect
        net = self.tensors.under(f"{self.layout.layer(level, step)}{d.net}.")
        first, second = (
            folding.with_actnorm(
                net[f"{i}.{d.inner}weight"],
                {name: net[f"{i}.{name}"] for name in ("actnorm.logs", "actnorm.bias")},
            )
            for i in (0, 2)
        )
        last = _zero_conv(net, "4.", d)
        if self.config.levels[level].steps[step].is_affine:
            last = folding.plus_two(folding.uncrossed(last))
        return first, second, last

    def prior(self, level: int) -> Conv | FixedPrior:
        d, kind = self.dialect, self.config.levels[level].prior.kind
        if kind == "conv":
            found = self.tensors.under(f"{self.layout.split(level)}conv.")
            return folding.uncrossed_prior(_zero_conv(found, "", d))
        both = np.zeros((1, 2 * self.layout.top_channels))  # [classes, m and q]
        if self.layout.learn_top:  # it convolves zeros: only its bias counts
            both = both + _zero_conv(self.tensors.under(f"{d.learn_top}."), "", d).bias
        if kind == "classes":
            found = self.tensors.under("project_ycond.")
            rows = found[f"{d.linear}weight"].T + found[f"{d.linear}bias"]
            both = both + rows * np.exp(folding.LOG_SCALE_FACTOR * found["logs"])
        both = both[..., None, None] if kind == "classes" else both[0, :, None, None]
        mean, log_std = np.split(both, 2, axis=-3)
        return FixedPrior(mean, log_std)


def _zero_conv(found: Mapping[str, Doubles], prefix: str, d: Dialect) -> Conv:
    conv = Conv(found[f"{prefix}{d.inner}weight"], found[f"{prefix}{d.inner}bias"])
    return folding.zero_conv(conv, found[f"{prefix}logs"])
