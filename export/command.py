"""``flowship export``: a trained checkpoint to a verified bundle."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.commands.inspect import FP16_NOTE, quality_table, quality_words
from ..runtime.commands.options import add_report, print_json
from ..runtime.errors import MissingExtraError
from ..runtime.extras import need
from ..runtime.likelihood import few_pictures
from ..runtime.progress import ProgressLine
from ..runtime.table import format_bytes, format_table
from ..runtime.text import readable
from .arguments import (
    DEFAULT_WINDOWS,
    DEFAULTS,
    check_places,
    find_output,
    read_request,
    size_in_bytes,
)
from .sources.checkpoint_files import find_files

if TYPE_CHECKING:
    from .pipeline import Report

PACKAGES = {  # of each target: what writes it and what runs it
    "onnx": ("onnx", "onnxruntime"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    _add_precisions(parser)
    _add_facts(parser)
    _add_form(parser)
    add_report(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=".pth or .safetensors of a TarFlow; one in parts by its folder or index",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="NAME.flowship",
        help="bundle folder to write; one of the same weights keeps its other targets",
    )
    parser.add_argument(
        "--replace", action="store_true", help="keep nothing of a bundle that is there already"
    )
    parser.add_argument("--name", help="name of the bundle (the file's)")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights, kept in the manifest")


def _add_precisions(parser: argparse.ArgumentParser) -> None:
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
        type=size_in_bytes,
        metavar="BYTES",
        help="search the formats of 'mixed' for the least loss in this size, as in 200MB",
    )
    smaller.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw size against bits/dim of the search"
    )


def _add_facts(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("what a checkpoint does not say")
    model.add_argument(
        "--weights", metavar="NAME", help="which of several models in the file, such as ema"
    )
    model.add_argument("--in-channels", type=int, metavar="N", help="1 grey, 3 RGB")
    model.add_argument("--head-dim", type=int, metavar="N", help="width of an attention head (64)")
    model.add_argument(
        "--noise-std", metavar="STD|uniform", help="training noise (from the file name)"
    )
    model.add_argument(
        "--label-names", type=Path, metavar="FILE", help="class names, one a line, in order"
    )


def _add_form(parser: argparse.ArgumentParser) -> None:
    form = parser.add_argument_group("form of the graphs")
    form.add_argument(
        "--onnx-form",
        choices=("gqa", "core"),
        help="gqa: fastest, ONNX Runtime only; core: standard operators, static windows (gqa)",
    )
    form.add_argument(
        "--onnx-kv-cache",
        choices=("float", "int8"),
        help="keys and values in quantized ONNX graphs of models with 512 channels and more; int8 "
        "takes a quarter of the memory, and less time patch by patch in long sequences (float)",
    )
    form.add_argument(
        "--windows",
        metavar="LIST",
        help=f"window lengths of static graphs ({DEFAULT_WINDOWS})",
    )
    form.add_argument(
        "--executorch-static",
        action="store_true",
        help="ExecuTorch methods for --windows in place of one for every length",
    )
    form.add_argument(
        "--coreml-compute-units",
        choices=("all", "cpu-and-gpu", "cpu-and-ne", "cpu-only"),
        help="what Core ML packages are made for; decides how they write the cache "
        f"({DEFAULTS.coreml_compute_units})",
    )
    form.add_argument("--no-denoise", action="store_true", help="leave out the denoising graphs")


def run(arguments: argparse.Namespace) -> int:
    request = read_request(arguments)
    output = find_output(arguments, find_files(arguments.checkpoint))
    check_places(arguments, output)
    # Said now, not after torch has loaded and blocks were converted.
    need("flowship export", "torch", *(p for t in request.targets for p in PACKAGES.get(t, ())))
    progress = ProgressLine(not arguments.quiet)
    try:
        from .pipeline import run_export
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowship"):
            raise
        raise MissingExtraError("flowship export", str(error.name), "export") from error
    report = run_export(arguments.checkpoint, output, request, progress)
    notes = _notes(report, request.options.coreml_compute_units)
    notes += _limit_notes(report, request.max_bpd_increase)
    if arguments.json:
        print_json(_describe(report, output, notes))
    else:
        _print(report, output)
        for note in notes:
            progress.note(f"note: {note}")
    return 0


def _notes(report: Report, compute_units: str) -> list[str]:
    from .targets.coreml import placement_note

    precisions = report.manifest.precisions
    notes = [FP16_NOTE] if "fp16" in precisions.get("onnx", ()) else []
    made = [p for p in precisions.get("coreml", ()) if f"coreml {p}" not in report.kept]
    found = [placement_note(precision, compute_units) for precision in made]
    return notes + [note for note in found if note]


def _limit_notes(report: Report, limit: float | None) -> list[str]:
    """How few pictures a limit was judged by."""
    if limit is None:
        return []
    inputs = dict.fromkeys(q.bits_per_dim_inputs or "" for q in report.manifest.quality)
    counts = [int(n) for n in (text.partition(" ")[0] for text in inputs) if n.isdecimal()]
    few = [(n, few_pictures(n)) for n in counts if few_pictures(n)]
    return [f"--max-bpd-increase {limit:g} was judged by {n} pictures{words}" for n, words in few]


def _describe(report: Report, output: Path, notes: list[str]) -> dict[str, Any]:
    """Everything that _print() shows, for machines."""
    return {
        "output": readable(str(output)),
        "bytes": _num_bytes(report),
        "kept": report.kept,
        "quality": [asdict(quality) for quality in report.manifest.quality],
        "notes": notes,
        "frontiers": {
            engine: [asdict(point) for point in mixture.found.points]
            for engine, mixture in report.mixtures.items()
        },
    }


def _print(report: Report, output: Path) -> None:
    from .quantize.frontier_plot import HEADER, frontier_rows

    for engine, mixture in report.mixtures.items():
        print(f"mixtures for {engine}: size of the matrices and change of bits/dim")
        print(format_table(HEADER, frontier_rows(mixture.found.points, mixture.float_bytes)))
        print()
    quality = report.manifest.quality
    print("\n".join([quality_table(quality), *quality_words(quality)]))
    if report.kept:
        print(f"  kept as before: {', '.join(report.kept)}")
    print(f"{readable(str(output))} ({format_bytes(_num_bytes(report))})")


def _num_bytes(report: Report) -> int:
    return sum(entry.bytes for entry in report.manifest.files.values())
