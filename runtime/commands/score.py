"""``flowship score``: exact likelihood of pictures, in bits per dimension."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..table import format_number
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
        help="pictures, folders of them, or .npy [N, C, H, W] in [-1, 1]",
    )
    add_label(parser)
    parser.add_argument(
        "--noise",
        choices=("none", "train"),
        default="none",
        help="score the pictures as they are, or with the training noise added (none)",
    )
    parser.add_argument(
        "--noise-seed", type=int, default=0, metavar="N", help="seed of that noise (0)"
    )
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        names, images = read_all(arguments.images, flow.spec.image)
        found = flow.log_likelihood(
            images,
            label=arguments.label,
            noise=arguments.noise,
            noise_seed=arguments.noise_seed,
        )
    mean = float(found.bits_per_dim.mean())
    if arguments.json:
        values = zip(names, found.bits_per_dim, found.nll, found.logdet, strict=True)
        rows = [
            {"name": name, "bits_per_dim": float(b), "nll": float(n), "logdet": float(d)}
            for name, b, n, d in values
        ]
        print_json({"convention": found.convention, "mean_bits_per_dim": mean, "images": rows})
        return 0
    width = max(map(len, names))
    for name, bits in zip(names, found.bits_per_dim, strict=True):
        print(f"{name:{width}}  {format_number(bits, '.4f')}")
    print(f"{'mean':{width}}  {format_number(mean, '.4f')}\n{found.convention}")
    return 0
