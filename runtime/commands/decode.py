"""``flowship decode``: latents [N, T, D] to float32 images [N, C, H, W], or to pictures."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from ..errors import NonFiniteError
from ..flow import Flow
from ..images import Floats
from ..outputs import ARRAYS, NPZ, PICTURES, check_output
from ..picture_formats import check_sheet, write_npz, write_pictures
from ..pictures import read_latents, write_array
from ..progress import say
from .options import (
    add_bundle,
    add_engine,
    add_guidance,
    add_label,
    add_report,
    open_flow,
    print_json,
    warn_if_guidance_is_idle,
    warn_if_label_is_idle,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "latents",
        type=Path,
        metavar="LATENTS.npy",
        help="float32 [N, T, D]; of a .npz the array noise or z, as --input says",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="IMAGES.npy",
        help="float32 [N, C, H, W]; .npz has the latents too, .png, .jpg (quality 95, 4:4:4) and "
        ".webp (lossless) are pictures without a recipe",
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
    kind = check_output(arguments.output, (*ARRAYS, *PICTURES))
    warn_if_guidance_is_idle(arguments)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        latents = read_latents(arguments.latents, flow.spec, arguments.input)
        check_sheet(arguments.output, kind, len(latents), None, flow.spec.image)
        start = time.monotonic()
        images, failed = _decode(flow, latents, arguments)
        seconds = time.monotonic() - start
    _write(kind, images, latents, arguments)
    if arguments.json:
        shape = list(images.shape)
        print_json({"output": str(arguments.output), "shape": shape, "seconds": seconds})
    else:
        print(arguments.output)
    if failed:
        raise failed
    return 0


def _decode(
    flow: Flow, latents: Floats, arguments: argparse.Namespace
) -> tuple[Floats, NonFiniteError | None]:
    """Images, with NaN in those that the error names."""
    try:
        images = flow.decode(
            latents,
            input=arguments.input,
            label=arguments.label,
            guidance=arguments.guidance,
            guide_what=arguments.guide_what,
            annealed=arguments.annealed_guidance,
            attn_temp=arguments.attn_temp,
            denoise=arguments.denoise,
        )
    except NonFiniteError as error:
        if error.made is None:
            raise
        return error.made, error
    return images, None


def _write(kind: str, images: Floats, latents: Floats, arguments: argparse.Namespace) -> None:
    if kind in PICTURES:
        good = np.isfinite(images).all(axis=(1, 2, 3))
        write_pictures(arguments.output, kind, images[good])
        say(f"note: {arguments.output} has no recipe, generate --noise writes one")
    elif kind == NPZ:
        write_npz(arguments.output, images=images, **{arguments.input: latents})
    else:
        write_array(arguments.output, images)
