"""``flowship encode``: pictures to the prior's latents z [N, T, D], with logdet and bits/dim."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..likelihood import describe_convention, likelihood
from ..outputs import ARRAYS, NPZ, check_output
from ..picture_files import write_npz
from ..pictures import write_array
from .options import (
    add_bundle,
    add_engine,
    add_label,
    add_report,
    open_flow,
    print_json,
    read_all,
    warn_if_label_is_idle,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGES",
        help=".npy [N, C, H, W] in [-1, 1], pictures, or folders of them",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="LATENTS.npy",
        help="float32 [N, T, D]; a .npz has z, logdet, bits_per_dim and names",
    )
    add_label(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    kind = check_output(arguments.output, ARRAYS)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        names, images = read_all(arguments.images, flow.spec.image)
        latents, logdet = flow.encode(images, label=arguments.label)
        convention = describe_convention(flow.spec.training_noise, "none")
        found = likelihood(latents, logdet, flow.bundle.array("var"), convention)
    z = latents.astype(np.float32)
    if kind == NPZ:
        bits = found.bits_per_dim
        write_npz(arguments.output, z=z, logdet=logdet, bits_per_dim=bits, names=np.array(names))
    else:
        write_array(arguments.output, z)
    rows = [
        {"name": name, "logdet": float(d), "bits_per_dim": float(b)}
        for name, d, b in zip(names, logdet, found.bits_per_dim, strict=True)
    ]
    if arguments.json:
        print_json({"output": str(arguments.output), "convention": convention, "images": rows})
    else:
        print(arguments.output)
    return 0
