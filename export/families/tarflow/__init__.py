"""TarFlow: checkpoints as apple/ml-tarflow saves them (a bare state_dict of
``transformer_flow.Model``), their network and its independent reference.

Zhai et al., "Normalizing Flows are Capable Generative Models", 2024.
"""

from __future__ import annotations

from .config import LAYER_NORM_EPSILON, Floats, Shapes, TarFlowConfig
from .emit import emit_step
from .infer import KNOWN_CLASS_NAMES, checkpoint_name, infer_config, is_tarflow
from .reference import MLP, Attention, KVCache, Layer, TarFlowBlock
from .weights import (
    BlockWeights,
    block_tensor_names,
    block_weights,
    expected_shapes,
    is_mask,
)

__all__ = [
    "KNOWN_CLASS_NAMES",
    "LAYER_NORM_EPSILON",
    "MLP",
    "Attention",
    "BlockWeights",
    "Floats",
    "KVCache",
    "Layer",
    "Shapes",
    "TarFlowBlock",
    "TarFlowConfig",
    "block_tensor_names",
    "block_weights",
    "checkpoint_name",
    "emit_step",
    "expected_shapes",
    "infer_config",
    "is_mask",
    "is_tarflow",
]
