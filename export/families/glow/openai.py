"""openai/glow: a TensorFlow V2 checkpoint, no sidecar.

Arrays are NHWC, so a 1x1 convolution is z @ W. Convolutions of 3x3 see an extra channel that is one
on the border of the picture; what it gives is a bias for each place, which ties the model to one
size. Beside each variable may lie its moving average and the optimizer's slots.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....runtime.errors import CheckpointError
from ...sources.tensor_file import TensorFile
from . import folding
from .flags import GlowFlags, check_image_size, require, settled
from .model import Conv, Doubles, EightBit, FixedPrior, GlowConfig, GlowModel, Mixing, PriorSpec
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

OWN = re.compile(r"model/\d+/\d+/(actnorm_center/b|actnorm_scale/logs|f1/)")
_AVERAGE = "/ExponentialMovingAverage"
_LEAF = re.compile(r"(W|b|logs|indices|indices_inverse)")


def read(file: TensorFile, file_name: str, flags: GlowFlags) -> GlowModel:
    """The model, with all that is said of it checked against its shapes."""
    tensors = _variables(file, file_name, flags)
    name, levels = file_name, tensors.count("", "/")
    first = tensors.shape("0/0/actnorm_center/b", 4)[3]
    in_channels = input_channels(name, "0/0/actnorm_center/b", first)
    K = equal_depth(tensors, [f"{i}/" for i in range(levels)], "/")
    steps = [
        [_step(tensors, f"{i}/{k}/", level_channels(in_channels, i)) for k in range(K)]
        for i in range(levels)
    ]
    learn_top = tensors.has("prior/p/")
    classes = tensors.shape("prior/y_emb/W", 2)[0] if tensors.has("prior/y_emb/") else 0
    tensors.check(
        _expected(tensors, steps, in_channels, learn_top, classes),
        "openai",
        unused=[n for n in tensors.shapes if n.startswith("classifier/")],
        integers=[n for n in tensors.shapes if "/indices" in n],
    )
    require(
        name,
        described("openai", steps, in_channels),
        [
            (f"--image-size HxW (multiples of {1 << levels})", flags.image_size is not None),
            ("--n-bits N (its training script's default is 8)", flags.n_bits is not None),
        ],
    )
    settle_fixed(name, "openai", flags, shifted=True, moving_averages=True)
    assert flags.image_size and flags.n_bits
    size = check_image_size(name, flags.image_size, levels)
    kind: Any = "classes" if classes else "fixed" if learn_top else "standard"
    priors = [PriorSpec("conv")] * (levels - 1) + [PriorSpec(kind, spatial=learn_top)]
    step = 256.0 / (1 << flags.n_bits)
    config = GlowConfig(
        port="openai",
        in_channels=in_channels,
        height=size[0],
        width=size[1],
        levels=level_specs(size, in_channels, steps, priors),
        border="map",
        slope=0.0,
        num_classes=classes,
        pixels=uniform_bits(flags.n_bits, EightBit(256.0 / step, step=step)),
        default_temperature=0.7,
        own_number=None,
        num_parameters=tensors.num_values(lambda n: "/indices" not in n),
    )
    return GlowModel(name, config, Reader(tensors, config, learn_top))


@dataclass(frozen=True)
class Reader:
    """See GlowReader."""

    tensors: Tensors
    config: GlowConfig
    learn_top: bool

    def mixing(self, level: int, step: int) -> Mixing:
        found = self.tensors.under(f"{level}/{step}/")
        scale = np.exp(folding.LOG_SCALE_FACTOR * found["actnorm_scale/logs"].reshape(-1))
        if "invconv/W" in found:
            W = found["invconv/W"].T
        elif "shuffle/indices" in found:
            W = _permutation(self.tensors.file_name, level, step, found["shuffle/indices"])
        else:
            W = np.eye(len(scale))[::-1]  # flow_permutation 0 reverses the channels
        return folding.mixing(W, scale, found["actnorm_center/b"].reshape(-1))

    def network(self, level: int, step: int) -> tuple[Conv, Conv, Conv]:
        net = self.tensors.under(f"{level}/{step}/f1/")
        first = _with_actnorm(net, "l_1/", self._bordered(net["l_1/W"], level))
        second = _with_actnorm(net, "l_2/", _oihw(net["l_2/W"]))
        last = self._zero_conv(net, "l_last/", level)
        if self.config.levels[level].steps[step].is_affine:
            last = folding.plus_two(folding.uncrossed(last))
        return first, second, last

    def prior(self, level: int) -> Conv | FixedPrior:
        spec = self.config.levels[level]
        if spec.prior.kind == "conv":
            found = self.tensors.under(f"pool{level}/conv/")
            return folding.uncrossed_prior(self._zero_conv(found, "", level))
        both = np.zeros((2 * spec.channels, 1, 1))
        if self.learn_top:  # it convolves zeros: only bias and border count
            both = self._zero_conv(self.tensors.under("prior/p/"), "", level).bias
        if spec.prior.kind == "classes":
            found = self.tensors.under("prior/y_emb/")
            gain = np.exp(folding.LOG_SCALE_FACTOR * found["logs"])
            both = both + ((found["W"] + found["b"]) * gain)[:, :, None, None]
        mean, log_std = np.split(both, 2, axis=-3)
        return FixedPrior(mean, log_std)

    def _bordered(self, W: Doubles, level: int) -> Conv:
        """Without the border's channel, which is the last."""
        weight, spec = _oihw(W), self.config.levels[level]
        border = folding.ring_map(weight.weight[:, -1:], spec.height, spec.width)
        return Conv(weight.weight[:, :-1], border)

    def _zero_conv(self, found: Mapping[str, Doubles], prefix: str, level: int) -> Conv:
        conv = self._bordered(found[f"{prefix}W"], level)
        bias = conv.bias + found[f"{prefix}b"].reshape(-1, 1, 1)
        return folding.zero_conv(Conv(conv.weight, bias), found[f"{prefix}logs"])


def _oihw(W: Doubles) -> Conv:
    weight = W.transpose(3, 2, 0, 1)
    return Conv(weight, np.zeros(len(weight)))


def _with_actnorm(found: Mapping[str, Doubles], prefix: str, conv: Conv) -> Conv:
    center = found[f"{prefix}actnorm_center/b"].reshape(-1, *(1,) * (conv.bias.ndim - 1))
    logs = found[f"{prefix}actnorm_scale/logs"]
    return folding.zero_conv(Conv(conv.weight, conv.bias + center), logs)


def _permutation(file_name: str, level: int, step: int, indices: Doubles) -> Doubles:
    order = indices.astype(np.int64)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise CheckpointError(
            f"{file_name}: model/{level}/{step}/shuffle/indices is not a permutation"
        )
    matrix: Doubles = np.eye(len(order))[order]
    return matrix


# ---- names and shapes ----------------------------------------------------------------------------


def _variables(file: TensorFile, file_name: str, flags: GlowFlags) -> Tensors:
    """The model's variables or their moving averages, without ``model/``; slots are left out."""
    own = [name.removeprefix("model/") for name in file.tensors if name.startswith("model/")]
    plain = {n: f"model/{n}" for n in own if _LEAF.fullmatch(n.rpartition("/")[2])}
    averages = {n.removesuffix(_AVERAGE): f"model/{n}" for n in own if n.endswith(_AVERAGE)}
    known = plain.keys() | averages.keys()
    for name in own:  # a slot (Adam, Momentum) lies under the variable that it is for
        if name.removesuffix(_AVERAGE) not in known and not _lies_under(name, known):
            plain[name] = f"model/{name}"  # unknown: refused by name
    trained = {n: s for n, s in plain.items() if "/indices" not in n}
    if not averages:
        settled(file_name, "--weights", flags.weights, "plain", "it holds no moving averages")
    if not trained:
        settled(file_name, "--weights", flags.weights, "ema", "it holds moving averages only")
    if flags.weights == "ema" or not trained:
        plain = {n: s for n, s in plain.items() if n not in trained} | averages
    return Tensors(file, file_name, plain)


def _lies_under(name: str, known: Collection[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:i]) in known for i in range(1, len(parts)))


def _step(tensors: Tensors, prefix: str, channels: int) -> StepShape:
    first, last = (f"{prefix}f1/{name}/W" for name in ("l_1", "l_last"))
    _, _, columns, width = tensors.shape(first, 4)
    halves(tensors.file_name, first, (width, columns - 1), channels)
    affine = is_affine(tensors.file_name, last, tensors.shape(last, 4)[3], channels)
    return StepShape(width, affine, False if tensors.has(f"{prefix}invconv/") else None)


def _expected(
    tensors: Tensors,
    steps: list[list[StepShape]],
    in_channels: int,
    learn_top: bool,
    classes: int,
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i, level in enumerate(steps):
        C = level_channels(in_channels, i)
        for k, step in enumerate(level):
            shapes |= {f"{i}/{k}/{n}": s for n, s in _step_shapes(step, C).items()}
            if step.lu is None and tensors.has(f"{i}/{k}/shuffle/"):
                names = (f"{i}/{k}/shuffle/indices", f"{i}/{k}/shuffle/indices_inverse")
                shapes |= dict.fromkeys(names, (C,))
        if i < len(steps) - 1:
            shapes |= _zero_conv_shapes(f"pool{i}/conv/", C // 2, C)
    top = level_channels(in_channels, len(steps) - 1)
    if learn_top:
        shapes |= _zero_conv_shapes("prior/p/", 2 * top, 2 * top)
    if classes:
        shapes["prior/y_emb/W"] = (classes, 2 * top)
        shapes |= dict.fromkeys(("prior/y_emb/b", "prior/y_emb/logs"), (1, 2 * top))
    return shapes


def _step_shapes(step: StepShape, C: int) -> dict[str, Shape]:
    w, out = step.width, C if step.affine else C // 2
    shapes: dict[str, Shape] = {
        "f1/l_1/W": (3, 3, C // 2 + 1, w),
        "f1/l_2/W": (1, 1, w, w),
        **_zero_conv_shapes("f1/l_last/", w, out),
    }
    for prefix, channels in (("", C), ("f1/l_1/", w), ("f1/l_2/", w)):
        names = (f"{prefix}actnorm_center/b", f"{prefix}actnorm_scale/logs")
        shapes |= dict.fromkeys(names, (1, 1, 1, channels))
    if step.lu is False:
        shapes["invconv/W"] = (C, C)
    return shapes


def _zero_conv_shapes(prefix: str, columns: int, rows: int) -> dict[str, Shape]:
    return {
        f"{prefix}W": (3, 3, columns + 1, rows),
        f"{prefix}b": (1, 1, 1, rows),
        f"{prefix}logs": (1, rows),
    }
