"""The matrices of a block that are quantized: those of its layers, in the order they are used."""

from __future__ import annotations

MATRICES = ("attention.qkv", "attention.proj", "mlp.main.0", "mlp.main.2")


def matrix_name(layer: int, matrix: str) -> str:
    """Name in ``BlockWeights.network``."""
    return f"attn_blocks.{layer}.{matrix}.weight"


def matrix_names(num_layers: int) -> list[str]:
    """All of a block; proj_in and proj_out, 1% of the bytes, stay float."""
    return [matrix_name(layer, matrix) for layer in range(num_layers) for matrix in MATRICES]
