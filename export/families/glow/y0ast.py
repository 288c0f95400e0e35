"""y0ast/Glow-PyTorch: a bare state_dict or {'model': state_dict, ...} with an hparams.json.

Data in [-0.5, 0.5] with uniform noise of 1/256.
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
from .tensors import Tensors

OWN = re.compile(r"flow\.layers\.\d+\.block\.\d+\.")
DIALECT = Dialect(
    port="y0ast",
    net="block",
    inner="conv.",
    linear="linear.",
    lower="lower",
    upper="upper",
    learn_top="learn_top_fn",
    pixels=PixelRules(-0.5, 0.5, 8, 256.0, "uniform", 1 / 256, 1.0, EightBit(256.0)),
    additive_temperature=1.0,
)


def read(tensors: Tensors, flags: GlowFlags, sidecars: Sequence[Sidecar]) -> GlowModel:
    """The model, with all that is said of it checked against its shapes."""
    return read_layers(tensors, flags, DIALECT, hparams_of(sidecars, None))
