"""How a checkpoint's tensors map onto the network's weights and the host's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from ....runtime.errors import CheckpointError
from ...lazy import LazyMapping
from ...quantize.matrix import QuantizedMatrix
from .config import Floats, Shapes, TarFlowConfig
from .emit import emit_step
from .reference import TarFlowBlock


def is_mask(name: str) -> bool:
    """Causal masks are stored (33.5 MB in AFHQ-256) but say nothing: they are never loaded."""
    return re.fullmatch(r"blocks\.[0-9]+\.attn_mask", name) is not None


def block_tensor_names(shapes: Shapes, block: int) -> list[str]:
    """Names of a block's tensors in the checkpoint, without the causal mask."""
    prefix = f"blocks.{block}."
    return [n for n in shapes if n.startswith(prefix) and not is_mask(n)]


@dataclass(frozen=True)
class BlockWeights:
    """Float32 arrays of one block; both mappings may make them when they are asked for.

    Attributes:
        network: parameters of TarFlowBlock by name.
        pos: [T, C] position rows in the block's own order (reversed in flipped blocks).
        classes: [K + 1, C] class rows and their mean; one row of zeros without classes.
        quantized: what is written in place of the matrix of that name in ``network``, which stays
            the trained one.
        cache_scales: [layers, 2, C] of one step of an int8 cache, of keys and of values; None where
            the cache is not quantized.
    """

    network: Mapping[str, Floats]
    pos: Floats
    classes: Floats
    quantized: Mapping[str, QuantizedMatrix] = field(default_factory=dict)
    cache_scales: Floats | None = None

    def dequantized(self) -> BlockWeights:
        """The same block with the values that the quantized matrices stand for."""
        values = {name: matrix.dequantized() for name, matrix in self.quantized.items()}
        return replace(self, network={**self.network, **values}, quantized={})

    def module(self, config: TarFlowConfig) -> TarFlowBlock:
        """The torch module on these very arrays (no copy), whatever is quantized."""
        with torch.device("meta"):
            module = TarFlowBlock(config)
        return _fill(module, self.network.__getitem__)

    def part(self, config: TarFlowConfig, name: str) -> nn.Module:
        """One part of the module (``proj_in``, ``attn_blocks.3``) with the values that quantized
        matrices stand for; nothing else of the block is made."""
        with torch.device("meta"):
            part = TarFlowBlock(config).get_submodule(name)
        return _fill(part, lambda parameter: self._value(f"{name}.{parameter}"))

    def _value(self, name: str) -> Floats:
        if name in self.quantized:
            return self.quantized[name].dequantized()
        return self.network[name]


ModuleType = TypeVar("ModuleType", bound=nn.Module)


def _fill(module: ModuleType, array: Callable[[str], Floats]) -> ModuleType:
    """Give a module of meta tensors its parameters by name, without copying them."""
    state = {name: torch.from_numpy(array(name)) for name in module.state_dict()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def block_weights(tensors: Mapping[str, Floats], block: int) -> BlockWeights:
    """Split a block's checkpoint tensors into network, looked up when asked for, and tables."""
    prefix = f"blocks.{block}."
    tables = (f"{prefix}pos_embed", f"{prefix}class_embed")
    pos = tensors[tables[0]]
    given = tensors.get(tables[1])
    rows = np.zeros((0, pos.shape[1]), np.float32) if given is None else given[:, 0]
    mean = rows.mean(0, keepdims=True) if len(rows) else np.zeros((1, pos.shape[1]), np.float32)
    names = [name.removeprefix(prefix) for name in tensors if name not in tables]
    return BlockWeights(
        network=LazyMapping(names, lambda name: tensors[prefix + name]),
        pos=np.ascontiguousarray(pos[::-1] if block % 2 else pos),
        classes=np.concatenate([rows, mean]).astype(np.float32),
    )


def expected_shapes(config: TarFlowConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, masks left out."""
    network = emit_step(config, ("N", "W")).weights
    T, C = config.num_patches, config.channels
    shapes: dict[str, tuple[int, ...]] = {"var": (T, config.patch_dim)}
    for b in range(config.num_blocks):
        shapes[f"blocks.{b}.pos_embed"] = (T, C)
        if config.num_classes:
            shapes[f"blocks.{b}.class_embed"] = (config.num_classes, 1, C)
        shapes |= {f"blocks.{b}.{name}": shape for name, shape in network.items()}
    return shapes


def check_shapes(file_name: str, shapes: Shapes, config: TarFlowConfig) -> None:
    expected = expected_shapes(config)
    given = {name: shape for name, shape in shapes.items() if not is_mask(name)}
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            raise CheckpointError(f"{file_name}: the tensor {name} is missing")
        if name not in expected:
            raise CheckpointError(f"{file_name}: the tensor {name} is not part of a TarFlow model")
        if given[name] != expected[name]:
            raise CheckpointError(
                f"{file_name}: {name} has the shape {given[name]}, expected {expected[name]}"
            )
