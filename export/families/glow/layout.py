"""Names and shapes of the two ports whose levels are one list of layers (see flow_layers.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ....runtime.errors import CheckpointError
from .model import PixelRules
from .sizes import StepShape, halves, input_channels, is_affine, level_channels
from .tensors import Shape, Tensors


@dataclass(frozen=True)
class Dialect:
    """In what the two ports differ.

    Attributes:
        net: name of a step's network.
        inner: between a layer's name and those of its convolution or linear layer.
        linear: the same for a linear layer.
        lower, upper: of the decomposed 1x1 convolution.
        learn_top: name of the top prior's layer.
        additive_temperature: the port's own, for models without scales.
    """

    port: Any  # a Port; the type checker cannot narrow text
    net: str
    inner: str
    linear: str
    lower: str
    upper: str
    learn_top: str
    pixels: PixelRules
    additive_temperature: float


@dataclass(frozen=True)
class Layout:
    """What the names and shapes say."""

    K: int
    in_channels: int
    steps: list[list[StepShape]]
    learn_top: bool
    num_classes: int

    def layer(self, level: int, step: int) -> str:
        return f"flow.layers.{level * (self.K + 2) + 1 + step}."

    def split(self, level: int) -> str:
        return self.layer(level, self.K)

    @property
    def top_channels(self) -> int:
        return level_channels(self.in_channels, len(self.steps) - 1)


def layout_of(tensors: Tensors, d: Dialect) -> Layout:
    name = tensors.file_name
    K, num_levels = _count_layers(tensors)
    first = tensors.shape("flow.layers.1.actnorm.bias", 4)[1]
    in_channels = input_channels(name, "flow.layers.1.actnorm.bias", first)
    classes = 0
    if tensors.has("project_ycond."):
        classes = tensors.shape(f"project_ycond.{d.linear}weight", 2)[1]
    layout = Layout(K, in_channels, [[]] * num_levels, tensors.has(f"{d.learn_top}."), classes)
    steps = [
        [_step(tensors, layout.layer(i, k), level_channels(in_channels, i), d) for k in range(K)]
        for i in range(num_levels)
    ]
    return Layout(K, in_channels, steps, layout.learn_top, classes)


def _count_layers(tensors: Tensors) -> tuple[int, int]:
    """(K, L), from the place of the first split and the last step.

    Raises:
        CheckpointError: a layer is missing.
    """
    steps, splits = (
        {int(match[1]) for n in tensors.shapes if (match := pattern.match(n))}
        for pattern in (
            re.compile(r"flow\.layers\.([0-9]{1,6})\.actnorm\."),
            re.compile(r"flow\.layers\.([0-9]{1,6})\.conv\."),
        )
    )
    last = max(steps, default=0)
    K = min(splits, default=last + 1) - 1
    if K < 1:
        raise CheckpointError(f"{tensors.file_name}: it has no steps before its first split")
    levels = -(-(last + 2) // (K + 2))
    wanted = {i * (K + 2) + 1 + k for i in range(levels) for k in range(K)}
    wanted_splits = {i * (K + 2) + 1 + K for i in range(levels - 1)}
    for found, expected in ((steps, wanted), (splits, wanted_splits)):
        if wrong := found ^ expected:
            state = "missing" if min(wrong) in expected else "not where levels of equal depth go"
            raise CheckpointError(f"{tensors.file_name}: flow.layers.{min(wrong)} is {state}")
    return K, levels


def _step(tensors: Tensors, prefix: str, channels: int, d: Dialect) -> StepShape:
    first, last = (f"{prefix}{d.net}.{i}.{d.inner}weight" for i in (0, 4))
    width = halves(tensors.file_name, first, tensors.shape(first, 4), channels)
    affine = is_affine(tensors.file_name, last, tensors.shape(last, 4)[0], channels)
    stored = tensors.has(f"{prefix}invconv.")
    return StepShape(width, affine, not tensors.has(f"{prefix}invconv.weight") if stored else None)


def expected_shapes(layout: Layout, d: Dialect) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i, level in enumerate(layout.steps):
        C = level_channels(layout.in_channels, i)
        for k, step in enumerate(level):
            shapes |= {layout.layer(i, k) + n: s for n, s in _step_shapes(step, C, d).items()}
        if i < len(layout.steps) - 1:
            shapes |= _zero_conv_shapes(f"{layout.split(i)}conv.", C, C // 2, d)
    rows = 2 * layout.top_channels
    if layout.learn_top:
        shapes |= _zero_conv_shapes(f"{d.learn_top}.", rows, rows, d)
    if layout.num_classes:
        shapes |= {
            f"project_ycond.{d.linear}weight": (rows, layout.num_classes),
            f"project_ycond.{d.linear}bias": (rows,),
            "project_ycond.logs": (rows,),
        }
    return shapes


def _step_shapes(step: StepShape, C: int, d: Dialect) -> dict[str, Shape]:
    w, out = step.width, C if step.affine else C // 2
    shapes: dict[str, Shape] = {
        f"{d.net}.0.{d.inner}weight": (w, C // 2, 3, 3),
        f"{d.net}.2.{d.inner}weight": (w, w, 1, 1),
        **_zero_conv_shapes(f"{d.net}.4.", out, w, d),
    }
    for prefix, channels in (("", C), (f"{d.net}.0.", w), (f"{d.net}.2.", w)):
        for name in ("bias", "logs"):
            shapes[f"{prefix}actnorm.{name}"] = (1, channels, 1, 1)
    if step.lu is False:
        shapes["invconv.weight"] = (C, C)
    if step.lu:
        shapes |= {f"invconv.{name}": (C, C) for name in ("p", d.lower, d.upper)}
        shapes |= {f"invconv.{name}": (C,) for name in ("sign_s", "log_s")}
    return shapes


def _zero_conv_shapes(prefix: str, rows: int, columns: int, d: Dialect) -> dict[str, Shape]:
    return {
        f"{prefix}{d.inner}weight": (rows, columns, 3, 3),
        f"{prefix}{d.inner}bias": (rows,),
        f"{prefix}logs": (rows, 1, 1),
    }
