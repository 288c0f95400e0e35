"""``flowship export``: a trained checkpoint to a verified bundle."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ..runtime.commands.inspect import FP16_NOTE, quality_table
from ..runtime.commands.options import add_report, print_json
from ..runtime.errors import MissingExtraError, UsageError
from ..runtime.progress import ProgressLine
from ..runtime.table import format_bytes

DEFAULT_WINDOWS = "1,8,32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help=".pth or .safetensors of a TarFlow"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="NAME.flowship", help="bundle folder to write"
    )
    parser.add_argument(
        "--targets", default="onnx", metavar="LIST", help="onnx,executorch,coreml (%(default)s)"
    )
    parser.add_argument(
        "--precision", default="", metavar="LIST", help="fp32,fp16 (each target's best)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="real pictures for bits/dim: folder, .npy, .npz"
    )
    parser.add_argument("--name", help="name of the bundle (the file's)")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights, kept in the manifest")
    model = parser.add_argument_group("what a checkpoint does not say")
    model.add_argument("--in-channels", type=int, metavar="N", help="1 grey, 3 RGB")
    model.add_argument("--head-dim", type=int, metavar="N", help="width of an attention head (64)")
    model.add_argument(
        "--noise-std", metavar="STD|uniform", help="training noise (from the file name)"
    )
    model.add_argument(
        "--label-names", type=Path, metavar="FILE", help="class names, one a line, in order"
    )
    form = parser.add_argument_group("form of the graphs")
    form.add_argument(
        "--onnx-form",
        choices=("gqa", "core"),
        default="gqa",
        help="gqa: fastest, ONNX Runtime only; core: standard operators, static windows (gqa)",
    )
    form.add_argument(
        "--windows",
        default=DEFAULT_WINDOWS,
        metavar="LIST",
        help="window lengths of static graphs (%(default)s)",
    )
    form.add_argument(
        "--executorch-static",
        action="store_true",
        help="ExecuTorch methods for --windows in place of one for every length",
    )
    form.add_argument("--no-denoise", action="store_true", help="leave out the denoising graphs")
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        from .families.tarflow import ConfigOverrides
        from .pipeline import ExportRequest, bundle_name, export_checkpoint
        from .targets import TargetOptions
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowship"):
            raise
        raise MissingExtraError("flowship export", str(error.name), "export") from error
    request = ExportRequest(
        targets=_split(arguments.targets),
        precisions=_split(arguments.precision),
        overrides=ConfigOverrides(
            in_channels=arguments.in_channels,
            head_dim=arguments.head_dim,
            noise_std=_noise_std(arguments.noise_std),
            label_names=_label_names(arguments.label_names),
        ),
        options=TargetOptions(
            onnx_form=arguments.onnx_form,
            windows=_windows(arguments.windows),
            executorch_dynamic=not arguments.executorch_static,
            denoise=not arguments.no_denoise,
        ),
        data=arguments.data,
        name=arguments.name,
        licence=arguments.licence,
    )
    if arguments.data and not arguments.data.exists():  # said now, not after the conversion
        raise UsageError(f"--data {arguments.data} does not exist")
    output = arguments.output or Path(bundle_name(arguments.checkpoint.name) + ".flowship")
    progress = ProgressLine(not arguments.quiet)
    manifest = export_checkpoint(arguments.checkpoint, output, request, progress)
    size = sum(entry.bytes for entry in manifest.files.values())
    notes = [FP16_NOTE] if "fp16" in manifest.precisions.get("onnx", ()) else []
    if arguments.json:
        quality = [asdict(q) for q in manifest.quality]
        print_json({"output": str(output), "bytes": size, "quality": quality, "notes": notes})
        return 0
    print(quality_table(manifest.quality))
    for note in notes:
        progress.note(f"note: {note}")
    print(f"{output} ({format_bytes(size)})")
    return 0


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _noise_std(text: str | None) -> float | Literal["uniform"] | None:
    if text is None:
        return None
    if text == "uniform":
        return "uniform"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--noise-std {text!r} is neither a number nor 'uniform'") from None


def _label_names(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--label-names {path} cannot be read as text: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _windows(text: str) -> tuple[int, ...]:
    try:
        windows = tuple(int(part) for part in _split(text))
    except ValueError:
        windows = ()
    if not windows or min(windows) < 1:
        raise UsageError(f"--windows {text!r} is not a list of lengths, as in {DEFAULT_WINDOWS}")
    return windows
