"""``flowship score``: exact likelihood of pictures, in bits per dimension."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..flow import Flow
from ..images import Floats
from ..likelihood import MEANING, describe_convention
from ..model import Labels
from ..spec import ImageSpec
from ..table import format_number
from .in_batches import Done, add_exact_size, in_batches, prepared_json
from .options import (
    add_bundle,
    add_engine,
    add_label,
    add_report,
    is_given,
    open_flow,
    print_json,
    warn_if_label_is_idle,
)


class _Score(NamedTuple):
    bits_per_dim: float
    nll: float
    logdet: float


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
    add_exact_size(parser)
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
    if arguments.noise == "none" and is_given(arguments, "noise_seed"):
        raise UsageError("--noise-seed changes nothing without --noise train")
    done = Done[_Score](arguments.command)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        convention = describe_convention(flow.spec.training_noise, arguments.noise)
        spec = flow.spec.image
        try:
            status = in_batches(flow, arguments, partial(_score, flow, arguments), done)
        except KeyboardInterrupt:  # what is known is not lost
            if done.results:
                done.say(f"stopped after {len(done.results)} pictures: the mean is theirs")
                _report(arguments, done, convention, spec, interrupted=True)
            raise
    _report(arguments, done, convention, spec)
    return status


def _score(
    flow: Flow, arguments: argparse.Namespace, images: Floats, labels: Labels, first: int
) -> list[_Score]:
    found = flow.log_likelihood(
        images,
        label=list(labels),
        noise=arguments.noise,
        noise_seed=arguments.noise_seed + first,
    )
    values = zip(found.bits_per_dim, found.nll, found.logdet, strict=True)
    return [_Score(float(b), float(n), float(d)) for b, n, d in values]


def _report(
    arguments: argparse.Namespace,
    done: Done[_Score],
    convention: str,
    spec: ImageSpec,
    *,
    interrupted: bool = False,
) -> None:
    mean = float(np.mean([s.bits_per_dim for s in done.results])) if done.results else None
    if arguments.json:
        rows = [
            {"name": name, **score._asdict(), "prepared": prepared_json(prepared)}
            for name, score, prepared in zip(done.names, done.results, done.prepared, strict=True)
        ]
        print_json(
            {
                "convention": convention,
                "meaning": MEANING,
                "mean_bits_per_dim": mean,
                "images": rows,
                "failed": done.failures,
                "interrupted": interrupted,
            }
        )
    elif mean is not None:
        print(_table(done, mean, spec))
        print(f"{convention}\n{MEANING}")


def _table(done: Done[_Score], mean: float, spec: ImageSpec) -> str:
    width = max(map(len, [*done.names, "mean"]))
    rows = zip(done.names, done.results, done.prepared, strict=True)
    lines = [
        f"{name:{width}}  {format_number(score.bits_per_dim, '.4f')}{'  *' if prepared else ''}"
        for name, score, prepared in rows
    ]
    lines.append(f"{'mean':{width}}  {format_number(mean, '.4f')}")
    if any(done.prepared):
        lines.append(
            f"* resized, cropped or converted to {spec.img_size} x {spec.img_size} "
            f"{'grey' if spec.in_channels == 1 else 'RGB'}, which was scored: --json says how, "
            "--exact-size refuses other sizes"
        )
    return "\n".join(lines)
