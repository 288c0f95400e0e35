"""Each port's own way to compute, in torch, for parity only: nothing is folded, reordered or shared
with the common form but the checkpoint's tensors and the sizes."""

from __future__ import annotations

import torch

from ..model import GlowModel, Port
from .base import Reference
from .flow_layers import FlowLayers
from .normflows import Normflows
from .openai import OpenAI
from .rosinality import Rosinality

__all__ = ["Reference", "reference_of"]

PORTS: dict[Port, type[Reference]] = {
    "rosinality": Rosinality,
    "chaiyujin": FlowLayers,
    "y0ast": FlowLayers,
    "normflows": Normflows,
    "openai": OpenAI,
}


def reference_of(model: GlowModel, dtype: torch.dtype = torch.float32) -> Reference:
    """The port's own computation of a model."""
    return PORTS[model.config.port](model, dtype)
