"""normflows (VincentStimper/normalizing-flows): a bare state_dict, no sidecar.

Everything runs the other way round: flows and priors are counted from the top, a level's blocks
are in the order of generating, and so are actnorm's s and t. Bases are told apart by their shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....runtime.errors import CheckpointError
from . import folding
from .bases import Base, base_prior, base_shapes, base_spec, find_bases
from .flags import GlowFlags, check_image_size, require, settled, shown
from .model import (
    Conv,
    EightBit,
    FixedPrior,
    GlowConfig,
    GlowModel,
    Mixing,
    OwnNumber,
    PixelRules,
)
from .sizes import (
    StepShape,
    described,
    halves,
    input_channels,
    is_affine,
    level_channels,
    level_specs,
    settle_fixed,
)
from .tensors import Shape, Tensors

OWN = re.compile(r"flows\.\d+\.\d+\.flows\.0\.flows\.1\.param_map\.")
_NET = "flows.0.flows.1.param_map.net."
_LU = ("P", "L", "U")
_BUFFERS = ("data_dep_init_done", ".P", ".sign_S", ".eye")
_PIXELS = PixelRules(0.0, 1.0, 8, 256.0, "uniform", 1.0, 1 / 256, EightBit(256.0))


def read(tensors: Tensors, flags: GlowFlags) -> GlowModel:
    """The model, with all that is said of it checked against its shapes."""
    name = tensors.file_name
    L = tensors.count("flows.")
    finest = f"flows.{L - 1}.0.flows.2.s"
    in_channels = input_channels(name, finest, tensors.shape(finest, 4)[1])
    steps = [_steps(tensors, L - 1 - i, level_channels(in_channels, i)) for i in range(L)]
    bases = find_bases(tensors, in_channels, L)
    tensors.check(
        _expected(tensors, steps, in_channels, bases),
        "normflows",
        unused=[n for n in tensors.shapes if n.endswith(".flows.1.eye")],
        integers=[n for n in tensors.shapes if n.endswith("data_dep_init_done")],
    )
    _check_initialized(tensors)
    affine = any(step.affine for level in steps for step in level)
    size = _settled_size(name, flags, bases, described("normflows", steps, in_channels), affine)
    scale_map: Any = flags.scale_map or "sigmoid"
    config = GlowConfig(
        port="normflows",
        in_channels=in_channels,
        height=size[0],
        width=size[1],
        levels=level_specs(size, in_channels, steps, [base_spec(b) for b in bases], scale_map),
        border="zeros",
        slope=flags.leaky_slope or 0.0,
        num_classes=max(base.num_classes for base in bases),
        pixels=_PIXELS,
        default_temperature=0.7 if affine else 1.0,
        own_number=_log_prob(in_channels * size[0] * size[1]),
        num_parameters=tensors.num_values(lambda n: not n.endswith(_BUFFERS)),
        assumptions=_assumptions(flags),
    )
    return GlowModel(name, config, Reader(tensors, config, steps, bases, bool(flags.data_shift)))


@dataclass(frozen=True)
class Reader:
    """See GlowReader."""

    tensors: Tensors
    config: GlowConfig
    steps: list[list[StepShape]]
    bases: list[Base]
    shifted: bool

    def _block(self, level: int, step: int) -> str:
        block = len(self.config.levels[level].steps) - 1 - step
        return f"flows.{len(self.bases) - 1 - level}.{block}."

    def mixing(self, level: int, step: int) -> Mixing:
        prefix = self._block(level, step)
        conv = self.tensors.under(f"{prefix}flows.1.")
        actnorm = self.tensors.under(f"{prefix}flows.2.")
        if "W" in conv:
            W = conv["W"]
        else:
            W = folding.lu_matrix(*(conv[n] for n in ("P", "L", "U", "sign_S", "log_S")))
        shift = -actnorm["t"].reshape(-1)
        if self.shifted and level == step == 0:  # the Shift transform comes first
            shift = shift - 0.5
        return folding.mixing(W, np.exp(-actnorm["s"].reshape(-1)), shift)

    def network(self, level: int, step: int) -> tuple[Conv, Conv, Conv]:
        net = self.tensors.under(self._block(level, step) + _NET)
        normed = "1.actNorm.s" in net
        first, second = (_hidden(net, i * (3 if normed else 2), normed) for i in (0, 1))
        number = 6 if normed else 4
        last = Conv(net[f"{number}.weight"], net[f"{number}.bias"])
        half = self.config.levels[level].channels // 2
        scale_map = self.config.levels[level].steps[step].scale_map
        signs = -np.ones(len(last.bias))  # it subtracts its shift
        if scale_map != "none":
            last, signs[:half] = folding.uncrossed(last), 1.0
        last = folding.scaled(last, signs)
        if scale_map in ("sigmoid", "sigmoid_inv"):
            last = folding.plus_two(last)
        return first, second, last

    def prior(self, level: int) -> Conv | FixedPrior:
        prefix = f"q0.{len(self.bases) - 1 - level}."
        return base_prior(self.tensors.under(prefix), self.bases[level])


def _hidden(net: dict[str, Any], number: int, normed: bool) -> Conv:
    weight = net[f"{number}.weight"]
    if not normed:
        return Conv(weight, net[f"{number}.bias"])
    s, t = (net[f"{number + 1}.actNorm.{n}"].reshape(-1) for n in "st")
    conv = folding.scaled(Conv(weight, np.zeros(len(weight))), np.exp(s))
    return Conv(conv.weight, t)


# ---- names and shapes ----------------------------------------------------------------------------


def _steps(tensors: Tensors, own_level: int, channels: int) -> list[StepShape]:
    """In the order of encoding."""
    prefix = f"flows.{own_level}."
    count = tensors.count(prefix)
    return [_step(tensors, f"{prefix}{k}.", channels) for k in reversed(range(count))]


def _step(tensors: Tensors, prefix: str, channels: int) -> StepShape:
    first = f"{prefix}{_NET}0.weight"
    last = f"{prefix}{_NET}{6 if tensors.has(f'{prefix}{_NET}1.') else 4}.weight"
    s = f"{prefix}flows.2.s"
    if tensors.shape(s, 4)[1] != channels:
        raise CheckpointError(
            f"{tensors.file_name}: {s} has {tensors.shape(s, 4)[1]} channels, expected {channels}: "
            "each level squeezes 2 x 2 pixels into channels and gives half of them away"
        )
    width = halves(tensors.file_name, first, tensors.shape(first, 4), channels)
    affine = is_affine(tensors.file_name, last, tensors.shape(last, 4)[0], channels)
    return StepShape(width, affine, lu=not tensors.has(f"{prefix}flows.1.W"))


def _expected(
    tensors: Tensors, steps: list[list[StepShape]], in_channels: int, bases: list[Base]
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    top = len(steps) - 1
    for i, level in enumerate(steps):
        C = level_channels(in_channels, i)
        for k, step in enumerate(reversed(level)):
            prefix = f"flows.{top - i}.{k}."
            normed = tensors.has(f"{prefix}{_NET}1.")
            shapes |= {prefix + n: s for n, s in _step_shapes(step, C, normed).items()}
        shapes |= {f"q0.{top - i}.{n}": s for n, s in base_shapes(bases[i]).items()}
    return shapes


def _step_shapes(step: StepShape, C: int, normed: bool) -> dict[str, Shape]:
    w, out = step.width, C if step.affine else C // 2
    numbers = (0, 3, 6) if normed else (0, 2, 4)
    convs: list[Shape] = [(w, C // 2, 3, 3), (w, w, 1, 1), (out, w, 3, 3)]
    shapes: dict[str, Shape] = {
        "flows.2.s": (1, C, 1, 1),
        "flows.2.t": (1, C, 1, 1),
        "flows.2.data_dep_init_done": (),
    }
    for number, conv in zip(numbers, convs, strict=True):
        shapes[f"{_NET}{number}.weight"] = conv
        if normed and number < numbers[-1]:
            actnorm = f"{_NET}{number + 1}.actNorm."
            shapes |= {f"{actnorm}{n}": (1, w, 1, 1) for n in "st"}
            shapes[f"{actnorm}data_dep_init_done"] = ()
        else:
            shapes[f"{_NET}{number}.bias"] = conv[:1]
    if not step.lu:
        return shapes | {"flows.1.W": (C, C)}
    shapes |= {f"flows.1.{name}": (C, C) for name in _LU}
    return shapes | {"flows.1.sign_S": (C,), "flows.1.log_S": (C,)}


def _check_initialized(tensors: Tensors) -> None:
    flags = [name for name in tensors.shapes if name.endswith(".data_dep_init_done")]
    for name, value in tensors.read(flags).items():
        if not value:
            raise CheckpointError(
                f"{tensors.file_name}: {name} is 0: the model has never seen a picture, its "
                "actnorms are not initialised"
            )


def _settled_size(
    file_name: str, flags: GlowFlags, bases: list[Base], what: str, affine: bool
) -> tuple[int, int]:
    """Of the pictures; all flags are there and go with what is known."""
    levels = len(bases)
    size = _known_size(file_name, bases, levels)
    scale_map = "--scale-map sigmoid|exp|sigmoid_inv (the library's default is sigmoid)"
    require(
        file_name,
        what,
        [
            (f"--image-size HxW (multiples of {1 << levels})", bool(size or flags.image_size)),
            (scale_map, not affine or flags.scale_map is not None),
        ],
    )
    # Where nothing scales it has no effect, and the library's default is as good as any.
    settle_fixed(
        file_name,
        "normflows",
        flags,
        n_bits=8,
        scale_map=None if affine else "sigmoid",
        slope=False,
    )
    if size:
        why = f"its base distributions are those of {shown(size)} pictures"
        settled(file_name, "--image-size", flags.image_size, size, why)
    return check_image_size(file_name, size or flags.image_size or (0, 0), levels)


def _known_size(file_name: str, bases: list[Base], num_levels: int) -> tuple[int, int] | None:
    """Of the pictures, from bases that have a value for each place."""
    sizes = {
        (base.size[0] << (i + 1), base.size[1] << (i + 1))
        for i, base in enumerate(bases)
        if base.size
    }
    if len(sizes) > 1:
        raise CheckpointError(
            f"{file_name}: its base distributions are those of pictures of different sizes: "
            f"{', '.join(map(shown, sorted(sizes)))}"
        )
    return check_image_size(file_name, next(iter(sizes)), num_levels) if sizes else None


def _assumptions(flags: GlowFlags) -> tuple[str, ...]:
    found = []
    if flags.leaky_slope is None:
        found.append("its networks have relu (otherwise say --leaky-slope)")
    if flags.data_shift is None:
        found.append("it has no Shift transform (otherwise say --data-shift yes)")
    return tuple(found)


def _log_prob(num_values: int) -> OwnNumber:
    nats = float(np.log(2) * num_values)
    return OwnNumber("log_prob", "nats of a picture in [0, 1]", -nats, 8.0 * nats)
