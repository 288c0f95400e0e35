"""chaiyujin/glow-pytorch: {'graph': state_dict, ...} with an hparams JSON.

Data in [0, 1] with normal noise of 1/256; it prints bits per pixel, not per value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...sources.sidecars import Sidecar
from .flags import GlowFlags
from .flow_layers import read_layers
from .hparams import hparams_of
from .layout import Dialect
from .model import EightBit, GlowModel, PixelRules
from .sizes import input_channels, per_pixel
from .tensors import Tensors

OWN = re.compile(r"flow\.layers\.\d+\.f\.\d+\.")
DIALECT = Dialect(
    port="chaiyujin",
    net="f",
    inner="",
    linear="",
    lower="l",
    upper="u",
    learn_top="learn_top",
    pixels=PixelRules(0.0, 1.0, 8, 255.0, "normal", 1.0, 1 / 256, EightBit(255.0)),
    additive_temperature=0.5,
)


def read(tensors: Tensors, flags: GlowFlags, sidecars: Sequence[Sidecar]) -> GlowModel:
    """The model, with all that is said of it checked against its shapes."""
    first = "flow.layers.1.actnorm.bias"
    channels = input_channels(tensors.file_name, first, tensors.shape(first, 4)[1])
    hparams = hparams_of(sidecars, "Glow")
    return read_layers(tensors, flags, DIALECT, hparams, per_pixel("nll", channels))
