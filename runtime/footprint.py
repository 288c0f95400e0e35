"""Memory that a bundle needs to generate one picture, from the sizes in its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from .engines.onnx_forms import has_int8_cache, multiplies_codes
from .manifest import Artifact, Manifest
from .spec import ARBlock


@dataclass(frozen=True)
class Footprint:
    """Bytes for one picture in one precision; activations of a step (kilobytes) are left out.

    Attributes:
        disk_bytes: all files of this engine and precision.
        largest_block_bytes: weights of the largest block, the least that must be in memory.
        all_blocks_bytes: weights of all blocks, when none is opened twice.
        cache_bytes: KV cache of one block; twice that with guidance.
    """

    engine: str
    precision: str
    disk_bytes: int
    largest_block_bytes: int
    all_blocks_bytes: int
    cache_bytes: int


def loaded_bytes(manifest: Manifest, artifact: Artifact, block: ARBlock) -> int:
    """Weights of an opened graph: its files', or the floats that quantized ones become."""
    stored = sum(manifest.files[file].bytes for file in artifact.files)
    is_float = artifact.engine != "onnx" or artifact.precision in ("fp32", "fp16")
    if is_float or multiplies_codes(artifact.form):
        return stored
    return 4 * 12 * block.channels**2 * block.num_layers  # qkv, proj and an MLP of four widths


def cached_bytes(artifact: Artifact, block: ARBlock) -> int:
    """Of the keys and values of one patch in one branch of one block."""
    if has_int8_cache(artifact.form):
        value_bytes = 1
    else:  # the state of a Core ML program is fp16; quantized graphs of the others have float32
        value_bytes = 2 if artifact.engine == "coreml" or artifact.precision == "fp16" else 4
    return 2 * block.num_layers * block.channels * value_bytes


def footprints(manifest: Manifest) -> list[Footprint]:
    """One for each engine and precision of the bundle."""
    return [
        _footprint(manifest, engine, precision)
        for engine, precisions in manifest.precisions.items()
        for precision in precisions
    ]


def _footprint(manifest: Manifest, engine: str, precision: str) -> Footprint:
    spec, blocks = manifest.spec, []
    for stage in spec.ar_blocks:
        steps = manifest.find(engine, precision, "step", stage.name, 1)
        blocks.append(max(loaded_bytes(manifest, step, stage) for step in steps))
    every = {
        file
        for a in manifest.artifacts
        if (a.engine, a.precision) == (engine, precision)
        for file in a.files
    }
    cache = max(spec.image.num_patches * cached_bytes(steps[0], b) for b in spec.ar_blocks)
    disk = sum(manifest.files[file].bytes for file in every)
    return Footprint(engine, precision, disk, max(blocks), sum(blocks), cache)
