"""How large keys and values become, so that a KV cache of int8 has a scale for each channel.

Scales are fixed when a model is exported: a cached patch never depends on the patches beside it,
nor on those that come later.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ..families.tarflow import BlockWeights
from .calibration import BlockInputs, LayerWalk

Floats = npt.NDArray[np.float32]

CACHE_PICTURES = 16  # that say how large keys and values become
# Pictures that are not among them may go beyond; what is larger still is clipped.
MARGIN = 1.1
LARGEST_CODE = 127


def cache_scales(weights: BlockWeights, inputs: BlockInputs) -> Floats:
    """[layers, 2, C] step of the codes of keys and of values, of the trained block."""
    layers = sum(name.endswith("attention.qkv.weight") for name in weights.network)
    walk, found = LayerWalk(weights, inputs), []
    for layer in range(layers):
        _, keys, values = walk.largest_outputs("attention.qkv").chunk(3)
        found.append(torch.stack([keys, values]))
        if layer + 1 < layers:
            walk.next_layer()
    largest = torch.stack(found).clamp(min=1e-6).numpy()  # a channel that is always 0 has a step
    scales: Floats = largest * np.float32(MARGIN / LARGEST_CODE)
    return scales
