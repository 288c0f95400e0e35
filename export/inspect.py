"""``flowship inspect CHECKPOINT``: what a checkpoint is, before it is exported."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runtime.commands.inspect import describe_model
from ..runtime.commands.options import print_json
from ..runtime.table import format_bytes, format_table
from .checkpoint import Checkpoint
from .options import ConfigOverrides

BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0}


def run(arguments: argparse.Namespace) -> int:
    """The part of ``flowship inspect`` that needs torch."""
    overrides = ConfigOverrides(in_channels=arguments.in_channels, head_dim=arguments.head_dim)
    checkpoint = Checkpoint.open(Path(arguments.path), overrides, weights=arguments.weights)
    if arguments.json:
        print_json(describe(checkpoint))
    else:
        print(render(checkpoint))
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that render() shows, for machines."""
    config = checkpoint.config
    return {
        "kind": "checkpoint",
        "family": "tarflow",
        "source": asdict(checkpoint.source),
        "bytes": checkpoint.file_bytes,
        "num_parameters": checkpoint.num_parameters,
        "config": asdict(config),
        "memory": _memory(checkpoint),
    }


def _memory(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Bytes to generate one picture, estimated from the number of weights."""
    c = checkpoint.config
    cache = 2 * c.layers_per_block * c.num_patches * c.channels
    return [
        {
            "precision": precision,
            "block_bytes": int(c.block_parameters * size),
            "all_blocks_bytes": int(c.block_parameters * c.num_blocks * size),
            "cache_bytes": int(cache * size),
            "guided_cache_bytes": int(2 * cache * size),
        }
        for precision, size in BYTES_PER_WEIGHT.items()
    ]


def render(checkpoint: Checkpoint) -> str:
    """The report for people."""
    source, rows = checkpoint.source, []
    for m in _memory(checkpoint):
        one, every = m["block_bytes"], m["all_blocks_bytes"]
        cells = [b + m[c] for b in (one, every) for c in ("cache_bytes", "guided_cache_bytes")]
        rows.append([f"  {m['precision']}", *map(format_bytes, cells)])
    header = ["  precision", "one block", "guided", "all blocks", "guided"]
    size = format_bytes(checkpoint.file_bytes)
    return "\n".join(
        [
            f"{source.file}: tarflow, {checkpoint.num_parameters:,} parameters, {size}",
            f"  sha256    {source.sha256}",
            *describe_model(checkpoint.config.flow_spec()),
            "",
            "memory for one picture (one block in memory at a time, or all of them)",
            format_table(header, rows),
        ]
    )
