"""``flowship decode``: latents [N, T, D] to float32 images [N, C, H, W]."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..atomic import check_file
from ..pictures import read_latents, write_array
from .options import (
    add_bundle,
    add_engine,
    add_guidance,
    add_label,
    add_report,
    open_flow,
    print_json,
    sampling,
    warn_if_guidance_is_idle,
    warn_if_label_is_idle,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument("latents", type=Path, metavar="LATENTS.npy", help="float32 [N, T, D]")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="IMAGES.npy",
        help="float32 [N, C, H, W]",
    )
    parser.add_argument(
        "--input",
        choices=("noise", "z"),
        default="noise",
        help="what the latents are: noise, before the prior's scale, or z, after it (noise)",
    )
    add_label(parser)
    add_guidance(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    check_file(arguments.output)
    warn_if_guidance_is_idle(arguments)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        latents = read_latents(arguments.latents, flow.spec)
        start = time.monotonic()
        images = flow.decode(
            latents, input=arguments.input, label=arguments.label, **sampling(arguments)
        )
        seconds = time.monotonic() - start
    write_array(arguments.output, images)
    if arguments.json:
        shape = list(images.shape)
        print_json({"output": str(arguments.output), "shape": shape, "seconds": seconds})
    else:
        print(arguments.output)
    return 0
