"""The base distributions of normflows, one a level, told apart by the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....runtime.errors import CheckpointError
from . import folding
from .model import Doubles, FixedPrior, PriorSpec
from .sizes import level_channels
from .tensors import Shape, Tensors


@dataclass(frozen=True)
class Base:
    """A level's base.

    Attributes:
        size: (height, width) of one that has a value for each place.
        num_classes: 0 where it does not depend on the class.
    """

    kind: Literal["DiagGaussian", "ClassCondDiagGaussian", "GlowBase"]
    channels: int
    size: tuple[int, int] | None
    num_classes: int


def find_bases(tensors: Tensors, in_channels: int, num_levels: int) -> list[Base]:
    """From the finest level to the top.

    Raises:
        CheckpointError: they are none of the known ones, or do not agree on the classes.
    """
    own = tensors.count("q0.")
    if own != num_levels:
        raise CheckpointError(
            f"{tensors.file_name}: {own} base distributions (q0) for {num_levels} levels of flows"
        )
    top = num_levels - 1
    channels = [level_channels(in_channels, i) // (1 if i == top else 2) for i in range(num_levels)]
    bases = [_base(tensors, f"q0.{top - i}.", C) for i, C in enumerate(channels)]
    counts = {base.num_classes for base in bases if base.num_classes}
    if len(counts) > 1:
        raise CheckpointError(
            f"{tensors.file_name}: its base distributions know {sorted(counts)} classes, expected "
            "the same number everywhere"
        )
    return bases


def _base(tensors: Tensors, prefix: str, channels: int) -> Base:
    a, b, c, d = loc = tensors.shape(f"{prefix}loc", 4)
    if tensors.has(f"{prefix}loc_logs") and loc == (1, channels, 1, 1):
        table = f"{prefix}loc_cc"
        classes = tensors.shape(table, 2)[0] if tensors.has(table) else 0
        return Base("GlowBase", channels, None, classes)
    if (a, b) == (1, channels):
        return Base("DiagGaussian", channels, (c, d), 0)
    if a == channels:
        return Base("ClassCondDiagGaussian", channels, (b, c), d)
    raise CheckpointError(
        f"{tensors.file_name}: {prefix}loc has the shape {loc}, expected {channels} channels in a "
        "DiagGaussian, ClassCondDiagGaussian or GlowBase"
    )


def base_shapes(base: Base) -> dict[str, Shape]:
    """Of its tensors."""
    C, size = base.channels, base.size
    if base.kind == "DiagGaussian" and size:
        shapes: dict[str, Shape] = dict.fromkeys(("loc", "log_scale"), (1, C, *size))
    elif base.kind == "ClassCondDiagGaussian" and size:
        shapes = dict.fromkeys(("loc", "log_scale"), (C, *size, base.num_classes))
    else:
        names = ("loc", "loc_logs", "log_scale", "log_scale_logs")
        shapes = dict.fromkeys(names, (1, C, 1, 1))
        if base.num_classes:
            shapes |= dict.fromkeys(("loc_cc", "log_scale_cc"), (base.num_classes, C))
    return shapes


def base_spec(base: Base) -> PriorSpec:
    return PriorSpec("classes" if base.num_classes else "fixed", spatial=base.size is not None)


def base_prior(found: Mapping[str, Doubles], base: Base) -> FixedPrior:
    """Its mean and log of the deviation."""
    mean, log_std = (_values(found, base, name) for name in ("loc", "log_scale"))
    return FixedPrior(mean, log_std)


def _values(found: Mapping[str, Doubles], base: Base, name: str) -> Doubles:
    values = found[name]
    if base.kind == "ClassCondDiagGaussian":
        classes_first: Doubles = np.moveaxis(values, -1, 0)
        return classes_first
    if base.kind == "DiagGaussian":
        common: Doubles = values[0]
        return common
    gain = np.exp(folding.LOG_SCALE_FACTOR * found[f"{name}_logs"])
    common = (values * gain)[0]  # [C, 1, 1]
    if base.num_classes:
        common = common + found[f"{name}_cc"][:, :, None, None]
    return common
