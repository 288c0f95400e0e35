"""``flowship encode``: pictures to the prior's latents z [N, T, D], with logdet and bits/dim."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..flow import Flow
from ..images import Floats
from ..likelihood import describe_convention, likelihood
from ..model import Labels
from ..outputs import ARRAYS, NPZ, check_output
from ..picture_formats import write_npz
from ..pictures import write_array
from .in_batches import Done, add_exact_size, in_batches, prepared_json
from .options import (
    add_bundle,
    add_engine,
    add_label,
    add_report,
    open_flow,
    print_json,
    warn_if_label_is_idle,
)


class _Encoded(NamedTuple):
    latent: Floats
    logdet: float
    bits_per_dim: float


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
    add_exact_size(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    kind = check_output(arguments.output, ARRAYS)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        done = Done[_Encoded](arguments.command)
        status = in_batches(flow, arguments, partial(_encode, flow), done)
        convention = describe_convention(flow.spec.training_noise, "none")
    if done.results:  # the rows are those of the pictures that could be read
        _write(arguments.output, kind, done)
    output = str(arguments.output) if done.results else None
    rows = [
        {
            "name": name,
            "logdet": encoded.logdet,
            "bits_per_dim": encoded.bits_per_dim,
            "prepared": prepared_json(prepared),
        }
        for name, encoded, prepared in zip(done.names, done.results, done.prepared, strict=True)
    ]
    if arguments.json:
        print_json(
            {"output": output, "convention": convention, "images": rows, "failed": done.failures}
        )
    elif output:
        print(output)
    return status


def _encode(flow: Flow, images: Floats, labels: Labels, first: int) -> list[_Encoded]:
    latents, logdet = flow.encode(images, label=list(labels))
    found = likelihood(latents, logdet, flow.bundle.variances, "")
    values = zip(latents, logdet, found.bits_per_dim, strict=True)
    return [_Encoded(z, float(d), float(b)) for z, d, b in values]


def _write(path: Path, kind: str, done: Done[_Encoded]) -> None:
    z = np.stack([encoded.latent for encoded in done.results])
    if kind != NPZ:
        write_array(path, z)
        return
    logdet = np.array([encoded.logdet for encoded in done.results])
    bits = np.array([encoded.bits_per_dim for encoded in done.results])
    write_npz(path, z=z, logdet=logdet, bits_per_dim=bits, names=np.array(done.names))
