"""Pictures that a command makes: of which noise, how, and where they go."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import NonFiniteError, UsageError
from ..events import Denoising, Event, Failed, Finished, Progress, not_finite
from ..flow import Flow, LabelLike, draw_noise
from ..generated import Generated
from ..guidance import Guidance
from ..hashing import sha256_bytes
from ..images import Floats
from ..interpolation import slerp
from ..labels import resolve_labels
from ..outputs import NPY, free_name, is_device
from ..picture_formats import has_room, write_pictures
from ..pictures import read_latents, write_array
from ..progress import ProgressLine, say
from ..recipe import MAX_PICTURES, Between, Recipe
from ..values import check_seed
from .options import read_guidance

LATENTS = ".latents.npy"  # behind the name of a picture: the latents that it lies between


@dataclass(frozen=True)
class Job:
    """What to make.

    Attributes:
        recipe: of the first picture; the others differ in seed and label.
        seeds: of all pictures, or their numbers in ``noise``.
        noise: [n, T, D] where seeds do not give it.
        ends: [2, T, D] noise between which it lies, where no seeds give them.
    """

    flow: Flow
    recipe: Recipe
    seeds: tuple[int, ...]
    labels: tuple[int | None, ...]
    noise: Floats | None = None
    ends: Floats | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    def noise_of(self, part: slice) -> Floats:
        """[n, T, D] of some pictures."""
        seeds = self.seeds[part]
        return draw_noise(seeds, self.flow.spec) if self.noise is None else self.noise[list(seeds)]

    def events(self, part: slice = slice(None)) -> Generator[Event, None, None]:
        """Make some of them, or all."""
        recipe, labels = self.recipe, self.labels[part]
        return self.flow.decode_events(
            self.noise_of(part),
            labels=labels,
            guidance=Guidance(
                recipe.guidance, recipe.guide_what, recipe.annealed_guidance, recipe.attn_temp
            ),
            denoise=recipe.denoise,
            recipe=replace(recipe, seeds=self.seeds[part], labels=labels),
        )


def seeds_job(flow: Flow, arguments: argparse.Namespace, seeds: list[int], label: LabelLike) -> Job:
    """Pictures from seeds."""
    for seed in seeds:
        check_seed(seed)
    labels = resolve_labels(label, flow.spec, len(seeds))
    recipe = _recipe(flow, arguments, seeds[0], labels[0])
    return Job(flow, recipe, tuple(seeds), labels)


def noise_job(flow: Flow, arguments: argparse.Namespace, noise: Floats, label: LabelLike) -> Job:
    """Pictures of given noise [N, T, D]."""
    labels = resolve_labels(label, flow.spec, len(noise))
    recipe = _recipe(flow, arguments, 0, labels[0], noise=_digest(noise))
    return Job(flow, recipe, tuple(range(len(noise))), labels, noise)


def way_job(
    flow: Flow,
    arguments: argparse.Namespace,
    between: Between,
    ends: Floats,
    labels: tuple[int | None, ...],
) -> Job:
    """Pictures on the way between two ends [2, T, D]."""
    noise, given = noise_between(ends, between.steps), None if between.seeds else ends
    recipe = _recipe(flow, arguments, 0, labels[0], noise=_digest(noise))
    recipe = replace(recipe, recipe_version=2, between=between)
    return Job(flow, recipe, tuple(range(between.steps)), labels, noise, given)


def recipe_job(flow: Flow, arguments: argparse.Namespace, recipe: Recipe, path: Path) -> Job:
    """The pictures of a recipe that stood in ``path``.

    Raises:
        UsageError: the latents that it lies between are not beside it.
    """
    if recipe.between is None:
        return seeds_job(flow, arguments, list(recipe.seeds), list(recipe.labels))
    between = recipe.between
    if between.seeds:
        ends = draw_noise(between.seeds, flow.spec)
    else:
        ends = _read_ends(path, between, flow)
    job = way_job(flow, arguments, between, ends, recipe.labels)
    return replace(job, seeds=recipe.seeds)


def noise_between(ends: Floats, steps: int) -> Floats:
    """[steps, T, D] from the first of two latents to the last."""
    first, last = ends
    return np.stack([slerp(first, last, i / (steps - 1)) for i in range(steps)])


def latents_between(ends: Floats, steps: int) -> Between:
    """Says that noise lies between latents that a file beside the picture keeps."""
    return Between(steps, latents_sha256=_digest(ends))


def _recipe(
    flow: Flow,
    arguments: argparse.Namespace,
    seed: int,
    label: int | None,
    noise: str | None = None,
) -> Recipe:
    guidance = read_guidance(arguments)
    return flow.recipe([label], guidance, arguments.denoise, seeds=[seed], noise=noise)


def _digest(noise: Floats) -> str:
    return sha256_bytes(noise.astype("<f4").tobytes())


def _read_ends(path: Path, between: Between, flow: Flow) -> Floats:
    place = Path(f"{path}{LATENTS}")
    if not place.exists():
        raise UsageError(
            f"{path} lies between two pictures, and their latents are in {place.name} beside it, "
            "which is not there: put it there"
        )
    ends = read_latents(place, flow.spec)
    if len(ends) != 2 or _digest(ends) != between.latents_sha256:
        raise UsageError(f"{place} holds other latents than those of {path}")
    return ends


# ---- making -------------------------------------------------------------------------------------


def follow(
    events: Generator[Event, None, None],
    progress: ProgressLine,
    done: float = 0.0,
    share: float = 1.0,
) -> Finished:
    """Show the progress of a part of the work: ``share`` of all, after ``done`` of it."""
    with closing(events):
        for event in events:
            if isinstance(event, Progress):
                fraction = done + share * event.fraction
                progress.update(fraction, f"{event.block}, patch {event.patches}")
            elif isinstance(event, Denoising):
                progress.update(done + share, "denoising")
            elif isinstance(event, Finished):
                progress.clear()
                return event
    raise AssertionError("events end with Finished")


def check_recipe_size(job: Job) -> None:
    """Refuse more pictures than one file's recipe can name, before the work."""
    if len(job) > MAX_PICTURES:
        raise UsageError(
            f"one file's recipe names at most {MAX_PICTURES:,} pictures, not {len(job):,}: "
            "give --separate"
        )


def save(
    result: Generated,
    kind: str,
    path: Path,
    job: Job,
    *,
    columns: int | None = None,
    new_name: bool = False,
) -> tuple[Path, Path | None]:
    """Write pictures to one file, and the latents between which they lie beside it.

    Args:
        new_name: take NAME-1, NAME-2, ... where the name is taken.

    Returns:
        Where they are, and the latents where there are some.
    """
    with free_name(path) if new_name else nullcontext(path) as own:
        fits = has_room(kind, result.recipe, len(result), columns)
        latents = save_latents(own, job) if fits else None
        write_pictures(own, kind, result.images, result.recipe, columns=columns, noise=result.noise)
    if not fits:
        say(f"note: the recipe is not in {own}: {_why_lost(kind)}")
    return own, latents


def save_latents(path: Path, job: Job) -> Path | None:
    """Keep the ends of an interpolation beside its picture."""
    if job.ends is None:
        return None
    if is_device(path):
        say(f"note: {path} cannot keep latents, so --like cannot make it again")
        return None
    place = Path(f"{path}{LATENTS}")
    write_array(place, job.ends)
    return place


def _why_lost(kind: str) -> str:
    return "a .npy holds one array" if kind == NPY else f"a {kind} has room for 64 KB"


def failure(job: Job, failed: list[Failed]) -> NonFiniteError | None:
    """The error that ends the command, after the other pictures have been written."""
    return not_finite(failed, len(job), kind=job.recipe.kind) if failed else None


def failed_of(error: NonFiniteError) -> Iterator[Failed]:
    """The pictures of a run that made none."""
    if not error.failed:
        raise error
    yield from error.failed
