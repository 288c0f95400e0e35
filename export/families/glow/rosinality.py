"""rosinality/glow-pytorch: a bare state_dict, no sidecar.

actnorm is scale * (x + loc); the last convolutions of networks and all priors are padded with ones;
the top level always has a decomposed 1x1 convolution. The picture's size and bits are nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ....runtime.errors import CheckpointError
from . import folding
from .flags import GlowFlags, check_image_size, require
from .model import Conv, EightBit, FixedPrior, GlowConfig, GlowModel, Mixing, PriorSpec
from .sizes import (
    StepShape,
    described,
    equal_depth,
    halves,
    input_channels,
    is_affine,
    level_channels,
    level_specs,
    settle_fixed,
    uniform_bits,
)
from .tensors import Shape, Tensors

OWN = re.compile(r"blocks\.\d+\.flows\.\d+\.(actnorm|invconv|coupling)\.")
_LU = ("w_p", "w_l", "w_u", "u_mask", "l_mask", "l_eye")
_BUFFERS = re.compile(r".*\.(initialized|w_p|u_mask|l_mask|s_sign|l_eye)")


def read(tensors: Tensors, flags: GlowFlags) -> GlowModel:
    """The model, with all that is said of it checked against its shapes."""
    name = tensors.file_name
    levels = tensors.count("blocks.")
    first = tensors.shape("blocks.0.flows.0.actnorm.loc", 4)[1]
    in_channels = input_channels(name, "blocks.0.flows.0.actnorm.loc", first)
    K = equal_depth(tensors, [f"blocks.{i}.flows." for i in range(levels)])
    steps = [
        [_step(tensors, f"blocks.{i}.flows.{k}.", level_channels(in_channels, i)) for k in range(K)]
        for i in range(levels)
    ]
    tensors.check(
        _expected(steps, in_channels),
        "rosinality",
        integers=[n for n in tensors.shapes if n.endswith(".initialized")],
    )
    _check_initialized(tensors)
    require(
        name,
        described("rosinality", steps, in_channels),
        [
            (f"--image-size HxW (multiples of {1 << levels})", flags.image_size is not None),
            ("--n-bits N (its training script's default is 5)", flags.n_bits is not None),
        ],
    )
    settle_fixed(name, "rosinality", flags, shifted=True)
    assert flags.image_size and flags.n_bits
    size = check_image_size(name, flags.image_size, levels)
    priors = [PriorSpec("conv")] * (levels - 1) + [PriorSpec("fixed", spatial=True)]
    config = GlowConfig(
        port="rosinality",
        in_channels=in_channels,
        height=size[0],
        width=size[1],
        levels=level_specs(size, in_channels, steps, priors),
        border="ones",
        slope=0.0,
        num_classes=0,
        pixels=uniform_bits(flags.n_bits, EightBit(255.0, 0.5)),
        default_temperature=0.7,
        own_number=None,
        num_parameters=tensors.num_values(lambda n: not _BUFFERS.fullmatch(n)),
    )
    return GlowModel(name, config, Reader(tensors, config))


@dataclass(frozen=True)
class Reader:
    """See GlowReader."""

    tensors: Tensors
    config: GlowConfig

    def mixing(self, level: int, step: int) -> Mixing:
        prefix = f"blocks.{level}.flows.{step}."
        actnorm = self.tensors.under(prefix + "actnorm.")
        conv = self.tensors.under(prefix + "invconv.")
        if "weight" in conv:
            W = conv["weight"][:, :, 0, 0]
        else:
            names = ("w_p", "w_l", "w_u", "s_sign", "w_s")
            W = folding.lu_matrix(*(conv[name] for name in names))
        return folding.mixing(W, actnorm["scale"].reshape(-1), actnorm["loc"].reshape(-1))

    def network(self, level: int, step: int) -> tuple[Conv, Conv, Conv]:
        net = self.tensors.under(f"blocks.{level}.flows.{step}.coupling.net.")
        last = folding.zero_conv(Conv(net["4.conv.weight"], net["4.conv.bias"]), net["4.scale"])
        last = folding.border_of_ones(last)
        if self.config.levels[level].steps[step].is_affine:
            last = folding.plus_two(last)
        hidden = [Conv(net[f"{i}.weight"], net[f"{i}.bias"]) for i in (0, 2)]
        return hidden[0], hidden[1], last

    def prior(self, level: int) -> Conv | FixedPrior:
        found = self.tensors.under(f"blocks.{level}.prior.")
        conv = folding.zero_conv(Conv(found["conv.weight"], found["conv.bias"]), found["scale"])
        spec = self.config.levels[level]
        if spec.prior.kind == "conv":
            return folding.border_of_ones(conv)
        # The top's convolves zeros, around which there are ones: it depends on the place.
        m = folding.ring_map(conv.weight, spec.height, spec.width) + conv.bias[:, None, None]
        mean, log_std = np.split(m, 2)
        return FixedPrior(mean, log_std)


def _step(tensors: Tensors, prefix: str, channels: int) -> StepShape:
    first, last = f"{prefix}coupling.net.0.weight", f"{prefix}coupling.net.4.conv.weight"
    width = halves(tensors.file_name, first, tensors.shape(first, 4), channels)
    affine = is_affine(tensors.file_name, last, tensors.shape(last, 4)[0], channels)
    return StepShape(width, affine, lu=not tensors.has(f"{prefix}invconv.weight"))


def _expected(steps: list[list[StepShape]], in_channels: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i, level in enumerate(steps):
        C = level_channels(in_channels, i)
        for k, step in enumerate(level):
            shapes |= {f"blocks.{i}.flows.{k}.{n}": s for n, s in _step_shapes(step, C).items()}
        top = i == len(steps) - 1
        rows, columns = (2 * C, C) if top else (C, C // 2)
        shapes |= _zero_conv_shapes(f"blocks.{i}.prior.", rows, columns)
    return shapes


def _step_shapes(step: StepShape, C: int) -> dict[str, Shape]:
    w, out = step.width, C if step.affine else C // 2
    shapes: dict[str, Shape] = {
        "actnorm.loc": (1, C, 1, 1),
        "actnorm.scale": (1, C, 1, 1),
        "actnorm.initialized": (),
        "coupling.net.0.weight": (w, C // 2, 3, 3),
        "coupling.net.0.bias": (w,),
        "coupling.net.2.weight": (w, w, 1, 1),
        "coupling.net.2.bias": (w,),
    } | _zero_conv_shapes("coupling.net.4.", out, w)
    if not step.lu:
        return shapes | {"invconv.weight": (C, C, 1, 1)}
    shapes |= {f"invconv.{name}": (C, C) for name in _LU}
    return shapes | {"invconv.w_s": (C,), "invconv.s_sign": (C,)}


def _zero_conv_shapes(prefix: str, rows: int, columns: int) -> dict[str, Shape]:
    return {
        f"{prefix}conv.weight": (rows, columns, 3, 3),
        f"{prefix}conv.bias": (rows,),
        f"{prefix}scale": (1, rows, 1, 1),
    }


def _check_initialized(tensors: Tensors) -> None:
    flags = [name for name in tensors.shapes if name.endswith(".actnorm.initialized")]
    for name, value in tensors.read(flags).items():
        if not value:
            raise CheckpointError(
                f"{tensors.file_name}: {name} is 0: the model has never seen a picture, its "
                "actnorms are not initialised"
            )
