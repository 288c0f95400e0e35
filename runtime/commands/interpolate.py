"""``flowship interpolate``: a strip of pictures between two seeds or pictures, through latents."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..atomic import check_file
from ..errors import UsageError
from ..flow import Flow, draw_noise
from ..generated import Generated
from ..guidance import Guidance
from ..hashing import sha256_bytes
from ..interpolation import slerp
from ..labels import resolve_labels
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
    sampling,
    warn_if_guidance_is_idle,
)

Floats = npt.NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--seeds", metavar="A,B", help="the two seeds")
    ends.add_argument("--images", type=Path, nargs=2, metavar="PICTURE", help="the two pictures")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="pictures in all (8)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("interpolation.png"),
        metavar="PNG",
        help="the strip (%(default)s)",
    )
    add_label(parser)
    add_guidance(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    steps = arguments.steps
    if not 2 <= steps <= 1000:
        raise UsageError(f"--steps {steps} is not between 2 and 1000")
    check_file(arguments.output)
    warn_if_guidance_is_idle(arguments)
    with open_flow(arguments) as flow:
        ends = _label_ends(flow, arguments.label)
        first, last = _end_noise(flow, arguments, ends)
        noise = np.stack([slerp(first, last, i / (steps - 1)) for i in range(steps)])
        # Each picture takes the label of the nearer end.
        labels = [ends[0] if 2 * i < steps else ends[1] for i in range(steps)]
        images = flow.decode(noise, label=labels, **sampling(arguments))
        options = sampling(arguments)
        denoise = options.pop("denoise")
        digest = sha256_bytes(noise.astype("<f4").tobytes())
        recipe = flow.recipe(labels, Guidance(*options.values()), denoise, noise=digest)
        path = Generated(images, noise, recipe).save(arguments.output, columns=steps)
    if arguments.json:
        print_json({"output": str(path), "images": steps, "labels": labels})
    else:
        print(path)
    return 0


def _label_ends(flow: Flow, label: str | None) -> tuple[int | None, int | None]:
    first, last = resolve_labels(label, flow.spec, 2)
    return first, last


def _end_noise(
    flow: Flow, arguments: argparse.Namespace, labels: tuple[int | None, int | None]
) -> tuple[Floats, Floats]:
    """[T, D] noise of both ends."""
    if arguments.seeds is not None:
        seeds = parse_seeds(arguments.seeds, None)
        if len(seeds) != 2:
            raise UsageError(f"--seeds {arguments.seeds} are not two seeds, as in 3,9")
        first, last = draw_noise(seeds, flow.spec)
        return first, last
    _, images = read_all(arguments.images, flow.spec.image)
    if len(images) != 2:
        raise UsageError(f"--images hold {len(images)} pictures, expected 2")
    z, _ = flow.encode(images, label=list(labels))
    first, last = z / np.sqrt(flow.bundle.array("var"))
    return first, last
