"""``flowship inspect``: what is inside a bundle; checkpoints are handed to the exporter."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from ..bundle import Bundle
from ..errors import MissingExtraError, UsageError
from ..file_kinds import is_checkpoint
from ..footprint import footprints
from ..likelihood import few_pictures
from ..manifest import Manifest, Quality
from ..spec import FlowSpec
from ..table import format_bytes, format_interval, format_number, format_table
from .options import print_json

FP16_NOTE = "onnx fp16 is for GPUs and storage: on x86 CPUs it is slower than fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", metavar="BUNDLE|CHECKPOINT", help="the embedded bundle if omitted"
    )
    parser.add_argument("--in-channels", type=int, metavar="N", help="of an ambiguous checkpoint")
    parser.add_argument("--head-dim", type=int, metavar="N", help="of a checkpoint (64)")
    parser.add_argument(
        "--weights", metavar="NAME", help="which of a checkpoint's models, such as ema"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.path and is_checkpoint(Path(arguments.path)):
        return int(_import_export_inspect().run(arguments))
    with Bundle.open(arguments.path) as bundle:
        _refuse_checkpoint_options(arguments)
        if arguments.json:
            print_json(describe(bundle))
        else:
            print(render(bundle))
    return 0


def _refuse_checkpoint_options(arguments: argparse.Namespace) -> None:
    for name in ("in_channels", "head_dim", "weights"):
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for checkpoints, and {arguments.path} is a bundle")


def _import_export_inspect() -> ModuleType:
    try:
        # By name: the runtime imports nothing of export.
        return importlib.import_module("flowship.export.inspect")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowship"):
            raise
        what = "flowship inspect of a checkpoint"
        raise MissingExtraError(what, str(error.name), "export") from error


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything that render() shows, for machines."""
    manifest, spec = bundle.manifest, bundle.spec
    image = spec.image
    return {
        "kind": "bundle",
        "name": manifest.name,
        "sha256": bundle.sha256,
        "schema_version": manifest.schema_version,
        "family": spec.family,
        "source": asdict(manifest.source),
        "bytes": bundle.nbytes,
        "image": {"size": image.img_size, "channels": image.in_channels},
        "patches": {"size": image.patch_size, "count": image.num_patches},
        "blocks": [asdict(block) for block in spec.ar_blocks],
        "classes": list(spec.class_names) or spec.num_classes,
        "training_noise": asdict(spec.training_noise),
        "denoise": spec.denoise,
        "memory": [
            {**asdict(f), "guided_cache_bytes": 2 * f.cache_bytes} for f in footprints(manifest)
        ],
        "roles": _roles(manifest),
        "quality": [asdict(quality) for quality in manifest.quality],
        "notes": _notes(manifest),
    }


def _roles(manifest: Manifest) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for a in manifest.artifacts:
        key = (a.engine, a.precision)
        row = {"engine": a.engine, "precision": a.precision, "form": a.form, "roles": []}
        entry = found.setdefault(key, row)
        role = f"{a.role} x{a.branches}" if a.branches > 1 else a.role
        windows = ",".join(map(str, a.windows)) or "any"
        text = f"{role} (windows {windows})" if a.role == "step" else role
        if text not in entry["roles"]:
            entry["roles"].append(text)
    return list(found.values())


def _notes(manifest: Manifest) -> list[str]:
    return [FP16_NOTE] if "fp16" in manifest.precisions.get("onnx", ()) else []


def render(bundle: Bundle) -> str:
    """The report for people."""
    manifest, spec = bundle.manifest, bundle.spec
    source = manifest.source
    count = f"{source.num_parameters:,} parameters, " if source.num_parameters else ""
    lines = [
        f"{manifest.name}: {spec.family}, {count}{format_bytes(bundle.nbytes)} on disk",
        f"  bundle    {bundle.sha256}",
        f"  source    {source.file}, sha256 {source.sha256[:16]}...",
        f"  licence   {source.licence or 'not stated'}",
        *describe_model(spec),
        "",
        "weights and caches in memory for one picture (of one block at a time, or of all)",
        _memory_table(manifest),
        "",
        "graphs",
    ]
    for row in _roles(manifest):
        lines.append(
            f"  {row['engine']} {row['precision']} ({row['form']}): {', '.join(row['roles'])}"
        )
    if manifest.quality:
        lines += [
            "",
            "measured against the trained model in float32",
            quality_table(manifest.quality),
        ]
        lines += quality_words(manifest.quality)
    lines += [f"note: {note}" for note in _notes(manifest)]
    return "\n".join(lines)


def describe_model(spec: FlowSpec) -> list[str]:
    """Lines about image, blocks, classes and noise; shared with the checkpoint's report."""
    image, block = spec.image, spec.ar_blocks[0]
    noise = spec.training_noise
    kinds = {"gaussian": f"Gaussian, std {noise.std}", "uniform": "uniform, 256 levels"}
    names = ", ".join(spec.class_names[:12]) + (", ..." if len(spec.class_names) > 12 else "")
    classes = f"{spec.num_classes} ({names})" if names else str(spec.num_classes or "none")
    colour = {1: "grey", 3: "RGB"}.get(image.in_channels, f"{image.in_channels} channels")
    return [
        f"  image     {image.img_size}x{image.img_size} {colour}, "
        f"{image.num_patches} patches of {image.patch_size}x{image.patch_size}",
        f"  blocks    {len(spec.ar_blocks)}, each {block.num_layers} layers, {block.channels} "
        f"channels, {block.num_heads} heads"
        + ("" if block.scale != "none" else ", volume preserving"),
        f"  classes   {classes}",
        f"  noise     {kinds.get(noise.kind, 'not known')}"
        + ("; can denoise" if spec.denoise else "; cannot denoise"),
    ]


def _memory_table(manifest: Manifest) -> str:
    rows = []
    for f in footprints(manifest):
        least, most = f.largest_block_bytes + f.cache_bytes, f.all_blocks_bytes + f.cache_bytes
        cells = (f.disk_bytes, least, least + f.cache_bytes, most, most + f.cache_bytes)
        rows.append([f"  {f.engine}", f.precision, *map(format_bytes, cells)])
    header = ["  engine", "precision", "on disk", "one block", "guided", "all blocks", "guided"]
    return format_table(header, rows)


def quality_table(quality: tuple[Quality, ...]) -> str:
    """Precision by precision, what was lost."""
    rows = [
        [
            f"  {q.engine}",
            q.precision,
            _number(q.max_abs_error, ".1e"),
            _number(q.image_max_abs_error, ".1e"),
            _number(q.round_trip_error, ".1e"),
            _number(q.psnr_db, ".1f"),
            _number(q.psnr_db_median, ".1f"),
            _number(q.bits_per_dim, ".4f"),
            _number(q.bits_per_dim_change, "+.5f"),
            format_interval(q.bits_per_dim_change_low, q.bits_per_dim_change_high),
            format_bytes(q.nbytes) if q.nbytes is not None else "-",
            format_bytes(q.peak_memory_bytes) if q.peak_memory_bytes is not None else "-",
            q.check,
        ]
        for q in quality
    ]
    header = [
        "  engine",
        "precision",
        "error of xa, xb",
        "of images",
        "of round trip",
        "PSNR dB",
        "median",
        "bits/dim",
        "change",
        "95% interval",
        "size",
        "peak memory",
        "check",
    ]
    return format_table(header, rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format_number(value, form)


def quality_words(quality: tuple[Quality, ...]) -> list[str]:
    """Lines that say what the columns of quality_table() are, and what they were measured on."""
    words = [f"{q.engine} {q.precision} with {q.checked_with}" for q in quality]
    words += [q.inputs for q in quality]
    words += [f"{q.precision} weights by {q.method}" for q in quality if q.method]
    words += [
        f"bits/dim of {rows} on {inputs}{_small_sample(inputs)}"
        for inputs, rows in _bits_inputs(quality).items()
    ]
    errors = "largest differences: of (xa, xb) from a torch module with the weights as stored"
    if any(q.check == "full" for q in quality):
        errors += ", of decoded images from those of the trained model, of encode(decode(z)) from z"
    return [f"  errors: {errors}", *(f"  checked: {line}" for line in dict.fromkeys(words))]


def _small_sample(inputs: str) -> str:
    """``inputs`` begins with the number of pictures."""
    count = inputs.partition(" ")[0]
    return few_pictures(int(count)) if count.isdecimal() else ""


def _bits_inputs(quality: tuple[Quality, ...]) -> dict[str, str]:
    """The rows by what their bits/dim were measured on."""
    found: dict[str, list[str]] = {}
    for q in quality:
        if q.bits_per_dim_inputs:
            found.setdefault(q.bits_per_dim_inputs, []).append(f"{q.engine} {q.precision}")
    return {inputs: ", ".join(rows) for inputs, rows in found.items()}
