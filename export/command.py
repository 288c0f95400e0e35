"""``flowship export``: a trained checkpoint to a verified bundle."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ..runtime.atomic import check_file
from ..runtime.commands.inspect import FP16_NOTE, quality_table
from ..runtime.commands.options import add_report, print_json
from ..runtime.errors import MissingExtraError, UsageError
from ..runtime.extras import need
from ..runtime.outputs import check_suffix
from ..runtime.progress import ProgressLine
from ..runtime.readable import check_readable
from ..runtime.table import format_bytes, format_table
from ..runtime.text import printable

DEFAULT_WINDOWS = "1,8,32"
PACKAGES = {  # of each target: what writes it and what runs it
    "onnx": ("onnx", "onnxruntime"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}


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
        "--precision",
        default="",
        metavar="LIST",
        help="fp32,fp16,int8,int4,pal8,pal6,pal4,mixed (each target's best)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="real pictures for bits/dim: folder, .npy, .npz"
    )
    smaller = parser.add_argument_group("smaller weights")
    smaller.add_argument(
        "--quantize-method",
        choices=("auto", "gptq", "rtn"),
        default="auto",
        help="gptq calibrates on half of the pictures, rtn rounds to nearest (auto: by model size)",
    )
    smaller.add_argument(
        "--max-bpd-increase",
        type=float,
        metavar="X",
        help="search the formats of 'mixed' for at most X bits/dim more than float32, and refuse "
        "any precision that loses more",
    )
    smaller.add_argument(
        "--max-size",
        type=_size,
        metavar="BYTES",
        help="search the formats of 'mixed' for the least loss in this size, as in 200MB",
    )
    smaller.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw size against bits/dim of the search"
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
        "--onnx-kv-cache",
        choices=("float", "int8"),
        default="float",
        help="keys and values in quantized ONNX graphs of models with 512 channels and more; int8 "
        "takes a quarter of the memory, and less time patch by patch in long sequences (float)",
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
    form.add_argument(
        "--coreml-compute-units",
        choices=("all", "cpu-and-gpu", "cpu-and-ne", "cpu-only"),
        default="cpu-and-gpu",
        help="what Core ML packages are made for; decides how they write the cache (%(default)s)",
    )
    form.add_argument("--no-denoise", action="store_true", help="leave out the denoising graphs")
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    targets = _split(arguments.targets)
    # Said now, not after torch has loaded and blocks were converted.
    need("flowship export", "torch", *(p for t in targets for p in PACKAGES.get(t, ())))
    try:
        from .families.tarflow import ConfigOverrides
        from .pipeline import bundle_name, run_export
        from .quantize.frontier_plot import HEADER, frontier_rows
        from .request import ExportRequest
        from .targets import TargetOptions
        from .targets.coreml import placement_note
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowship"):
            raise
        raise MissingExtraError("flowship export", str(error.name), "export") from error
    request = ExportRequest(
        targets=targets,
        precisions=_split(arguments.precision),
        overrides=ConfigOverrides(
            in_channels=arguments.in_channels,
            head_dim=arguments.head_dim,
            noise_std=_noise_std(arguments.noise_std),
            label_names=_label_names(arguments.label_names),
        ),
        options=TargetOptions(
            onnx_form=arguments.onnx_form,
            onnx_kv_cache=arguments.onnx_kv_cache,
            windows=_windows(arguments.windows),
            executorch_dynamic=not arguments.executorch_static,
            denoise=not arguments.no_denoise,
            coreml_compute_units=arguments.coreml_compute_units,
        ),
        data=arguments.data,
        name=arguments.name,
        licence=arguments.licence,
        method=arguments.quantize_method,
        max_bpd_increase=arguments.max_bpd_increase,
        max_size=arguments.max_size,
        plot=arguments.plot,
    )
    if arguments.data:  # said now, not after the conversion
        check_readable(arguments.data, "--data", folder=True)
    output = arguments.output or Path(bundle_name(arguments.checkpoint.name) + ".flowship")
    if str(output.resolve()) != printable(str(output.resolve())):
        raise UsageError(f"-o {output}: engines open no path that is not UTF-8, name another one")
    progress = ProgressLine(not arguments.quiet)
    if arguments.plot:
        check_file(arguments.plot)
        check_suffix(arguments.plot, (".svg",), "--plot")
    report = run_export(arguments.checkpoint, output, request, progress)
    manifest = report.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    notes = [FP16_NOTE] if "fp16" in manifest.precisions.get("onnx", ()) else []
    for precision in manifest.precisions.get("coreml", ()):
        note = placement_note(precision, arguments.coreml_compute_units)
        notes += [note] if note else []
    if arguments.json:
        quality = [asdict(q) for q in manifest.quality]
        frontiers = {
            engine: [asdict(point) for point in mixture.found.points]
            for engine, mixture in report.mixtures.items()
        }
        found = {"output": str(output), "bytes": size, "quality": quality, "notes": notes}
        print_json({**found, "frontiers": frontiers})
        return 0
    for engine, mixture in report.mixtures.items():
        print(f"mixtures for {engine}: size of the matrices and change of bits/dim")
        print(format_table(HEADER, frontier_rows(mixture.found.points, mixture.float_bytes)))
        print()
    print(quality_table(manifest.quality))
    for note in notes:
        progress.note(f"note: {note}")
    print(f"{output} ({format_bytes(size)})")
    return 0


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _size(text: str) -> int:
    """Bytes from ``200MB``; powers of 1000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as in 200MB or 1.5GB")
    return round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


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
    check_readable(path, "--label-names")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
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
