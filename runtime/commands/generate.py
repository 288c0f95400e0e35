"""``flowship generate``: pictures from seeds, as a grid or one file each."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..atomic import check_file
from ..errors import UsageError
from ..events import Denoising, Event, Finished, Progress
from ..flow import Flow
from ..generated import Generated
from ..guidance import Guidance
from ..hashing import sha256_bytes
from ..labels import resolve_labels
from ..pictures import read_latents, write_array
from ..png import read_recipe
from ..prepare import MODES
from ..progress import ProgressLine, format_seconds
from ..recipe import PHILOX_NOISE, Recipe
from ..schema import to_json
from ..trust import NOT_A_SPEED, UNTIMED_ENGINES
from .options import (
    add_bundle,
    add_engine,
    add_guidance,
    add_label,
    add_report,
    open_flow,
    parse_seeds,
    print_json,
    sampling,
    warn_if_guidance_is_idle,
    warn_if_label_is_idle,
)

# Options that --like takes from the picture.
_RECIPE_OPTIONS = (
    "seed", "num_images", "label", "noise", "guidance", "guide_what", "annealed_guidance",
    "attn_temp", "denoise", "engine", "precision", "device", "plan", "columns",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    parser.add_argument(
        "--seed",
        default="0",
        metavar="SEEDS",
        help="a number, a range or a list: 7, 0-15, 1,4,9 (0)",
    )
    parser.add_argument(
        "-n", "--num-images", type=int, metavar="N", help="pictures; seeds count up from --seed"
    )
    add_label(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="PNG (BUNDLE-SEED.png); with --separate a folder (the current one)",
    )
    parser.add_argument("--separate", action="store_true", help="one file for each picture")
    parser.add_argument(
        "--columns", type=int, metavar="N", help="pictures in a row of the grid (about square)"
    )
    parser.add_argument(
        "--like", type=Path, metavar="PNG", help="make the pictures of a PNG again, from its recipe"
    )
    parser.add_argument(
        "--noise", type=Path, metavar="NPY", help="decode this noise [N, T, D] in place of seeds"
    )
    parser.add_argument("--save-latent", type=Path, metavar="NPY", help="write the noise [N, T, D]")
    add_guidance(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.columns is not None and arguments.columns < 1:
        raise UsageError(f"--columns {arguments.columns} is below 1")
    _check_outputs(arguments)
    recipe = _take_recipe(arguments) if arguments.like else None
    warn_if_guidance_is_idle(arguments)
    with open_flow(arguments) as flow:
        warn_if_label_is_idle(arguments, flow.spec)
        _check_channels(flow)
        if recipe:
            _check_same(flow, recipe, arguments)
        progress = ProgressLine(not arguments.quiet)
        with closing(_events(flow, arguments, recipe)) as events:
            finished = _follow(events, progress)
    paths = _save(finished.result, arguments)
    if arguments.save_latent:
        write_array(arguments.save_latent, finished.result.noise)
    _report(finished, paths, arguments, progress)
    return 0


def _check_channels(flow: Flow) -> None:
    channels = flow.spec.image.in_channels
    if channels not in MODES:
        raise UsageError(
            f"this model's images have {channels} channels, which no PNG holds: make a .npy of "
            "them with flowship decode"
        )


def _events(
    flow: Flow, arguments: argparse.Namespace, recipe: Recipe | None
) -> Generator[Event, None, None]:
    options = sampling(arguments)
    if arguments.noise:
        noise = read_latents(arguments.noise, flow.spec)
        labels = resolve_labels(arguments.label, flow.spec, len(noise))
        denoise = options.pop("denoise")
        guidance = Guidance(*options.values())
        digest = sha256_bytes(noise.astype("<f4").tobytes())
        made = flow.recipe(labels, guidance, denoise, noise=digest)
        return flow.decode_events(
            noise, labels=labels, guidance=guidance, denoise=denoise, recipe=made
        )
    if recipe:
        return flow.events(seed=recipe.seeds, label=list(recipe.labels), **options)
    seeds = parse_seeds(arguments.seed, arguments.num_images)
    return flow.events(seed=seeds, label=arguments.label, **options)


def _follow(events: Iterator[Event], progress: ProgressLine) -> Finished:
    for event in events:
        if isinstance(event, Progress):
            progress.update(event.fraction, f"{event.block}, patch {event.patches}")
        elif isinstance(event, Denoising):
            progress.update(1.0, "denoising")
        elif isinstance(event, Finished):
            progress.clear()
            return event
    raise AssertionError("events end with Finished")


def _take_recipe(arguments: argparse.Namespace) -> Recipe:
    """Read the recipe of --like into the options; refuse options that would contradict it."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [
        name for name in _RECIPE_OPTIONS if getattr(arguments, name) != parser.get_default(name)
    ]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"--like takes everything from the picture: leave out {names}")
    recipe = read_recipe(arguments.like)
    if recipe.noise != PHILOX_NOISE:
        raise UsageError(
            f"{arguments.like} was made of a noise file with the sha256 {recipe.noise}: "
            "decode that file again with --noise"
        )
    for name in ("guidance", "guide_what", "annealed_guidance", "attn_temp", "denoise"):
        setattr(arguments, name, getattr(recipe, name))
    arguments.engine, arguments.precision = recipe.engine, recipe.precision
    arguments.device, arguments.columns = recipe.device, recipe.columns
    arguments.plan = recipe.plan
    arguments.label = None if all(label is None for label in recipe.labels) else "recipe"
    return recipe


def _check_same(flow: Flow, recipe: Recipe, arguments: argparse.Namespace) -> None:
    if recipe.bundle_sha256 != flow.bundle.sha256:
        raise UsageError(
            f"{arguments.like} was made with the bundle {recipe.bundle} "
            f"({recipe.bundle_sha256[:12]}), this is {flow.bundle.manifest.name} "
            f"({flow.bundle.sha256[:12]}): name the right bundle"
        )


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Before the work: where the results go."""
    output = arguments.output
    if arguments.save_latent:
        check_file(arguments.save_latent)
    if output and not arguments.separate:
        check_file(output)
    elif output and (output.suffix.lower() == ".png" or output.is_file()):
        raise UsageError(f"-o {output} is a file name, --separate wants a folder")


def _save(result: Generated, arguments: argparse.Namespace) -> list[Path]:
    if arguments.separate:
        folder = arguments.output or Path(".")
        folder.mkdir(parents=True, exist_ok=True)
        return result.save_each(folder)
    default = Path(f"{result.recipe.bundle}-{result.recipe.seeds[0]}.png")
    return [result.save(arguments.output or default, columns=arguments.columns)]


def _report(
    finished: Finished, paths: list[Path], arguments: argparse.Namespace, progress: ProgressLine
) -> None:
    result, count = finished.result, len(finished.result)
    pixels = [sha256_bytes(image.tobytes()) for image in result.pictures()]
    is_speed = arguments.engine not in UNTIMED_ENGINES
    if arguments.json:
        report: dict[str, Any] = {
            "output": [str(path) for path in paths],
            "images": count,
            "seconds": finished.seconds,
            "seconds_per_image": finished.seconds / count if is_speed else None,
            "images_per_minute": 60 * count / finished.seconds if is_speed else None,
            "pixels_sha256": pixels,
            "recipe": to_json(result.recipe),
        }
        print_json(report)
        return
    rate = f", {60 * count / finished.seconds:.0f} pictures a minute" if count > 1 else ""
    rate = rate if is_speed else f", {NOT_A_SPEED}: {arguments.engine} checks files"
    progress.note(f"{count} picture{'s' * (count > 1)} in {format_seconds(finished.seconds)}{rate}")
    for path in paths:
        print(path)
