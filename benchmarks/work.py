"""Bytes and operations of one picture, so that a time says what the machine reached."""

from __future__ import annotations

from ..runtime.footprint import cached_bytes, loaded_bytes
from ..runtime.manifest import Artifact, Manifest
from ..runtime.spec import ARBlock
from .contender import Work


def picture_bytes(
    manifest: Manifest, work: Work, engine: str, precision: str, branches: int
) -> int:
    """Bytes that the calls have to read: each call all weights of its block, and the KV cache.

    Activations stay in the processor's caches and are not counted, so the bandwidth reached is a
    lower bound.
    """
    total = 0
    for block in manifest.spec.ar_blocks:
        step = _step(manifest, block, engine, precision)
        weights, patch = loaded_bytes(manifest, step, block), cached_bytes(step, block)
        total += work.calls.get(block.name, 0) * weights
        total += work.cached.get(block.name, 0) * branches * patch
    return total


def picture_flops(manifest: Manifest, work: Work, branches: int) -> int:
    """Multiplications and additions of the matrix products and the attention, 2 each."""
    D = manifest.spec.latents[0].shape[1]
    total = 0
    for block in manifest.spec.ar_blocks:
        C, outputs = block.channels, D * (1 if block.scale == "none" else 2)
        matrices = 12 * C * C * block.num_layers + C * (D + outputs)  # qkv, proj, mlp of 4 C
        attention = 2 * C * block.num_layers  # q k and p v, for each patch that one looks at
        products = work.evaluated.get(block.name, 0) * matrices
        total += 2 * branches * (products + work.attended.get(block.name, 0) * attention)
    return total


def _step(manifest: Manifest, block: ARBlock, engine: str, precision: str) -> Artifact:
    """The graph that is called."""
    return next(
        artifact
        for artifact in manifest.artifacts
        if (artifact.engine, artifact.precision, artifact.stage, artifact.role)
        == (engine, precision, block.name, "step")
    )
