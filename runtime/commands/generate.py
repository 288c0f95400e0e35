"""``flowship generate``: pictures from seeds, as a grid or one file each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_file
from ..errors import NonFiniteError, UsageError
from ..events import Failed
from ..flow import Flow
from ..generated import Generated, stems_of
from ..hashing import sha256_bytes
from ..model import MAX_PICTURES_TOGETHER
from ..outputs import ARRAYS, NPY, PICTURES, PNG, SUFFIXES, check_new_names, check_output
from ..picture_formats import check_sheet
from ..pictures import read_latents
from ..progress import ProgressLine, format_seconds
from ..recipe import PHILOX_NOISE, Recipe
from ..recipe_files import read_recipe
from ..untimed import NOT_A_SPEED, UNTIMED_ENGINES
from .job import (
    Job,
    check_recipe_size,
    failed_of,
    failure,
    follow,
    noise_job,
    recipe_job,
    save,
    save_latents,
    seeds_job,
)
from .options import (
    add_bundle,
    add_engine,
    add_guidance,
    add_label,
    add_report,
    dashed,
    is_given,
    open_flow,
    parse_seeds,
    print_json,
    refuse_together,
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
        help="by its suffix a .png, .jpg (quality 95, 4:4:4) or .webp (lossless), a .npy of "
        "float32 [N, C, H, W] or a .npz (a new BUNDLE-SEED.png); with --separate a folder (.)",
    )
    parser.add_argument(
        "--separate", action="store_true", help="a PNG for each picture, written as they are made"
    )
    parser.add_argument(
        "--columns", type=int, metavar="N", help="pictures in a row of the grid (about square)"
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="make the pictures of a PNG, JPEG, WebP or .npz again, from its recipe",
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="NPY",
        help="decode this noise [N, T, D] in place of seeds (.npy, or a .npz's array noise)",
    )
    parser.add_argument("--save-latent", type=Path, metavar="NPY", help="write the noise [N, T, D]")
    add_guidance(parser)
    add_engine(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.columns is not None and arguments.columns < 1:
        raise UsageError(f"--columns {arguments.columns} is below 1")
    kind = _check_outputs(arguments)
    recipe = _take_recipe(arguments) if arguments.like else None
    refuse_together(arguments, "noise", "seed", "num_images")
    refuse_together(arguments, "separate", "columns")
    if kind in ARRAYS and is_given(arguments, "columns"):
        raise UsageError(f"--columns is for pictures, not for {arguments.output}")
    if recipe is None:
        warn_if_guidance_is_idle(arguments)
    progress = ProgressLine(not arguments.quiet)
    with open_flow(arguments) as flow:
        if recipe is None:
            warn_if_label_is_idle(arguments, flow.spec)
        else:
            _check_same(flow, recipe, arguments)
        job = _job(flow, arguments, recipe)
        shown = 1 if arguments.separate else len(job)
        check_sheet(
            arguments.output or "the picture", kind, shown, arguments.columns, flow.spec.image
        )
        make = _separately if arguments.separate else _together
        made = make(job, kind, arguments, progress)
    if made.seeds:
        _report(made, arguments, progress)
    if error := failure(job, made.failed):
        raise error
    return 0


def _job(flow: Flow, arguments: argparse.Namespace, recipe: Recipe | None) -> Job:
    if arguments.noise:
        noise = read_latents(arguments.noise, flow.spec)
        return noise_job(flow, arguments, noise, arguments.label)
    if recipe:
        return recipe_job(flow, arguments, recipe, arguments.like)
    seeds = parse_seeds(arguments.seed, arguments.num_images)
    return seeds_job(flow, arguments, seeds, arguments.label)


# ---- before the work ----------------------------------------------------------------------------


def _take_recipe(arguments: argparse.Namespace) -> Recipe:
    """Read the recipe of --like into the options; refuse options that would contradict it."""
    given = [name for name in _RECIPE_OPTIONS if is_given(arguments, name)]
    if given:
        names = ", ".join(map(dashed, given))
        raise UsageError(f"--like takes everything from the picture: leave out {names}")
    recipe = read_recipe(arguments.like)
    if recipe.noise != PHILOX_NOISE and recipe.between is None:
        raise UsageError(
            f"{arguments.like} was made of a noise file with the sha256 {recipe.noise}: "
            "decode that file again with --noise"
        )
    for name in ("guidance", "guide_what", "annealed_guidance", "attn_temp", "denoise"):
        setattr(arguments, name, getattr(recipe, name))
    arguments.engine, arguments.precision = recipe.engine, recipe.precision
    arguments.device, arguments.columns = recipe.device, recipe.columns
    arguments.plan = recipe.plan
    return recipe


def _check_same(flow: Flow, recipe: Recipe, arguments: argparse.Namespace) -> None:
    if recipe.bundle_sha256 != flow.bundle.sha256:
        raise UsageError(
            f"{arguments.like} was made with the bundle {recipe.bundle} "
            f"({recipe.bundle_sha256[:12]}), this is {flow.bundle.manifest.name} "
            f"({flow.bundle.sha256[:12]}): name the right bundle"
        )


def _check_outputs(arguments: argparse.Namespace) -> str:
    """Where the results go, and as what."""
    output = arguments.output
    if arguments.save_latent:
        check_output(arguments.save_latent, (NPY,), "--save-latent")
    if output and not arguments.separate:
        return check_output(output, (*PICTURES, *ARRAYS))
    if output and (output.suffix.lower() in SUFFIXES or _is_no_folder(output)):
        raise UsageError(f"-o {output} is a file name, --separate wants a folder")
    if not output:
        check_new_names(Path("."))
    return PNG


def _is_no_folder(path: Path) -> bool:
    return path.exists() and not path.is_dir()


# ---- the work -----------------------------------------------------------------------------------


@dataclass
class _Made:
    """What was written, and what can be said of it when the pictures are gone.

    Attributes:
        recipe: of a picture; ``seeds`` and ``labels`` are those of all.
    """

    recipe: Recipe
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def add(self, result: Generated, paths: list[Path]) -> None:
        self.seeds += result.recipe.seeds
        self.labels += result.recipe.labels
        self.pixels += [sha256_bytes(image.tobytes()) for image in result.pictures()]
        self.paths += paths


def _together(job: Job, kind: str, arguments: argparse.Namespace, progress: ProgressLine) -> _Made:
    """All pictures in one file."""
    check_recipe_size(job)
    finished = follow(job.events(), progress)
    result = finished.result
    default = Path(f"{result.recipe.bundle}-{result.recipe.seeds[0]}.png")
    output: Path = arguments.output or default
    path, _ = save(
        result,
        kind,
        output,
        job,
        columns=arguments.columns,
        new_name=arguments.output is None,
    )
    made = _Made(result.recipe, finished.seconds, failed=list(finished.failed))
    made.add(result, [path])
    if arguments.save_latent:
        _save_noise(job, made, arguments.save_latent)
    return made


def _separately(
    job: Job, kind: str, arguments: argparse.Namespace, progress: ProgressLine
) -> _Made:
    """A file for each picture, written before the next ones are made."""
    folder = arguments.output or Path(".")
    folder.mkdir(parents=True, exist_ok=True)
    check_new_names(folder)
    stems = stems_of(job.recipe.bundle, job.seeds)
    made, start = _Made(job.recipe), time.monotonic()
    for part in _parts(len(job)):
        share = (part.stop - part.start) / len(job)
        try:
            finished = follow(job.events(part), progress, part.start / len(job), share)
        except NonFiniteError as error:  # all of these
            made.failed += [_moved(one, part) for one in failed_of(error)]
            continue
        result = finished.result
        made.failed += [_moved(one, part) for one in finished.failed]
        bad = {one.number for one in finished.failed}
        own = [stems[i] for i in range(part.start, part.stop) if i - part.start not in bad]
        paths = []
        for path, _ in result.saving_each(folder, own, always_new=arguments.output is None):
            save_latents(path, job)
            paths.append(path)
            if not arguments.json:
                print(path, flush=True)
        made.add(result, paths)
    made.seconds = time.monotonic() - start
    if arguments.save_latent and made.seeds:
        _save_noise(job, made, arguments.save_latent)
    return made


def _parts(count: int) -> Iterator[slice]:
    for first in range(0, count, MAX_PICTURES_TOGETHER):
        yield slice(first, min(first + MAX_PICTURES_TOGETHER, count))


def _moved(one: Failed, part: slice) -> Failed:
    return replace(one, number=part.start + one.number)


def _save_noise(job: Job, made: _Made, path: Path) -> None:
    """The noise of what was made, as np.save() writes it, never all of it in memory."""
    own = replace(job, seeds=tuple(made.seeds), labels=tuple(made.labels))
    shape = (len(own), *job.flow.spec.latents[0].shape)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in _parts(len(own)):
            file.write(own.noise_of(part).astype("<f4").tobytes())


# ---- afterwards ---------------------------------------------------------------------------------


def _report(made: _Made, arguments: argparse.Namespace, progress: ProgressLine) -> None:
    count = len(made.seeds)
    is_speed = arguments.engine not in UNTIMED_ENGINES
    if arguments.json:
        recipe = {**made.recipe.to_json(), "seeds": made.seeds, "labels": made.labels}
        report: dict[str, Any] = {
            "output": [str(path) for path in made.paths],
            "images": count,
            "seconds": made.seconds,
            "seconds_per_image": made.seconds / count if is_speed else None,
            "images_per_minute": 60 * count / made.seconds if is_speed else None,
            "pixels_sha256": made.pixels,
            "recipe": recipe,
        }
        if made.failed:
            report["failed_seeds"] = [one.seed for one in made.failed]
        print_json(report)
        return
    rate = f", {60 * count / made.seconds:.0f} pictures a minute" if count > 1 else ""
    rate = rate if is_speed else f", {NOT_A_SPEED}: {arguments.engine} checks files"
    progress.note(f"{count} picture{'s' * (count > 1)} in {format_seconds(made.seconds)}{rate}")
    if not arguments.separate:
        for path in made.paths:
            print(path)
