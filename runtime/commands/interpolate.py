"""``flowship interpolate``: a strip of pictures between two seeds or pictures, through latents."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..flow import Flow, draw_noise
from ..images import Floats
from ..labels import resolve_labels
from ..outputs import ARRAYS, PICTURES, PNG, check_new_names, check_output
from ..picture_formats import check_sheet
from ..progress import ProgressLine
from ..recipe import MAX_STEPS, Between
from .job import Job, failure, follow, latents_between, save, way_job
from .options import (
    add_bundle,
    add_engine,
    add_guidance,
    add_label,
    add_report,
    open_flow,
    parse_seeds,
    print_json,
    read_all,
    warn_if_guidance_is_idle,
    warn_if_label_is_idle,
)

DEFAULT = Path("interpolation.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--seeds", metavar="A,B", help="the two seeds")
    ends.add_argument(
        "--images",
        type=Path,
        nargs=2,
        metavar="PICTURE",
        help="the two pictures; their latents are kept in a .npy beside the strip, for --like",
    )
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="pictures in all (8)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the strip, .png, .jpg (quality 95, 4:4:4) or .webp (lossless), or its pictures as "
        f".npy or .npz (a new {DEFAULT})",
    )
    add_label(parser)
    add_guidance(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    steps, output = arguments.steps, arguments.output
    if not 2 <= steps <= MAX_STEPS:
        raise UsageError(f"--steps {steps} is not between 2 and {MAX_STEPS}")
    kind = check_output(output, (*PICTURES, *ARRAYS)) if output else PNG
    if not output:
        check_new_names(Path("."))
    warn_if_guidance_is_idle(arguments)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        check_sheet(output or DEFAULT, kind, steps, steps, flow.spec.image)
        job = _job(flow, arguments)
        finished = follow(job.events(), ProgressLine(not arguments.quiet))
        path, latents = save(
            finished.result, kind, output or DEFAULT, job, columns=steps, new_name=not output
        )
    recipe = finished.result.recipe
    if arguments.json:
        report = {"output": str(path), "images": len(recipe.labels), "labels": recipe.labels}
        print_json(report | ({"latents": str(latents)} if latents else {}))
    else:
        print(path)
    if error := failure(job, list(finished.failed)):
        raise error
    return 0


def _job(flow: Flow, arguments: argparse.Namespace) -> Job:
    steps = arguments.steps
    first, last = resolve_labels(arguments.label, flow.spec, 2)
    # Each picture takes the label of the nearer end.
    labels = tuple(first if 2 * i < steps else last for i in range(steps))
    if arguments.seeds is not None:
        seeds = parse_seeds(arguments.seeds, None)
        if len(seeds) != 2:
            raise UsageError(f"--seeds {arguments.seeds} are not two seeds, as in 3,9")
        noise = draw_noise(seeds, flow.spec)
        return way_job(flow, arguments, Between(steps, tuple(seeds)), noise, labels)
    ends = _latents(flow, arguments.images, (first, last))
    return way_job(flow, arguments, latents_between(ends, steps), ends, labels)


def _latents(flow: Flow, paths: list[Path], labels: tuple[int | None, int | None]) -> Floats:
    """[2, T, D] noise of two pictures."""
    _, images = read_all(paths, flow.spec.image)
    if len(images) != 2:
        raise UsageError(f"--images hold {len(images)} pictures, expected 2")
    z, _ = flow.encode(images, label=list(labels))
    noise: Floats = (z / np.sqrt(flow.bundle.variances)).astype(np.float32)
    return noise
