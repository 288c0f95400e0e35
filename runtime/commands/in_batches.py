"""Work on pictures of any number: read and done in batches, past files that cannot be."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..errors import FlowshipError, NonFiniteError, UsageError
from ..flow import Flow
from ..images import Floats
from ..labels import resolve_labels
from ..model import MAX_PICTURES_TOGETHER, Labels
from ..picture_files import find_files, picture_size
from ..pictures import (
    count_images,
    is_array,
    map_npy,
    read_prepared,
    scale_images,
    view_images,
)
from ..prepare import Prepared
from ..progress import ProgressLine, say
from ..spec import ImageSpec

T = TypeVar("T")
BATCH_BYTES = 64 << 20  # of float32 pictures


@dataclass
class Done(Generic[T]):
    """What became of the pictures; names, prepared and results belong together.

    Attributes:
        command: whose work it is, as its messages begin.
        names: of the pictures; one of several in a file has ``[i]``.
        prepared: what was done to each picture, None where it fitted.
        results: of the work on each picture.
        failed: name and error of each file or picture that could not be read or done.
    """

    command: str
    names: list[str] = field(default_factory=list)
    prepared: list[Prepared | None] = field(default_factory=list)
    results: list[T] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failures(self) -> list[dict[str, str]]:
        """For JSON."""
        return [{"name": name, "error": error} for name, error in self.failed]

    def fail(self, name: str, error: FlowshipError) -> None:
        """Note an error and say it."""
        text = str(error) if str(error).startswith(name) else f"{name}: {error}"
        self.failed.append((name, " ".join(text.split())))
        self.say(self.failed[-1][1])

    def say(self, text: str) -> None:
        """A line on stderr."""
        say(f"flowship {self.command}: {text}")


# Pictures with their labels and the number of the first one to a result for each.
Work = Callable[[Floats, Labels, int], Sequence[T]]


def add_exact_size(parser: argparse.ArgumentParser) -> None:
    """--exact-size."""
    parser.add_argument(
        "--exact-size",
        action="store_true",
        help="refuse pictures of another size than the model's (they are resized and cropped)",
    )


def in_batches(flow: Flow, arguments: argparse.Namespace, work: Work[T], done: Done[T]) -> int:
    """Do the work on all pictures of ``arguments.images``, adding to ``done`` as it goes.

    Returns:
        The exit status: 1 where a picture could not be read or done.

    Raises:
        UsageError: misuse, also a file that is named alone and cannot be read.
    """
    spec = flow.spec.image
    files = find_files(arguments.images)
    if arguments.exact_size:
        _check_sizes(files, spec)
    alone = len(files) == 1 and not arguments.images[0].is_dir()
    labels = resolve_labels(arguments.label, flow.spec, sum(_count(file, spec) for file in files))
    progress = ProgressLine(not arguments.quiet)
    for number, batch in _batches(files, spec):
        progress.update(number / len(files), f"{len(done.results)} pictures, {files[number].name}")
        if isinstance(batch, _Failure):
            if alone:
                raise batch.error
            progress.clear()
            done.fail(batch.name, batch.error)
        else:
            _do(batch, labels, work, done)
    progress.clear()
    if done.failed and len(files) > 1:
        names = [name for name, _ in done.failed]
        more = f" and {len(names) - 10} more" * (len(names) > 10)
        verb = "was" if len(names) == 1 else "were"
        done.say(f"{len(names)} {verb} left out: {', '.join(names[:10])}{more}")
    return 1 if done.failed else 0


def prepared_json(prepared: Prepared | None) -> dict[str, Any] | None:
    """What was done to a picture; null where nothing was."""
    if prepared is None:
        return None
    return {
        "from": list(prepared.size),
        "resized": prepared.resized,
        "cropped": prepared.cropped,
        "converted": prepared.converted,
    }


# ---- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    name: str
    image: Floats
    prepared: Prepared | None


@dataclass(frozen=True)
class _Failure:
    """A file that cannot be read; ``count`` of its pictures have labels and seeds all the same."""

    name: str
    error: FlowshipError
    count: int


@dataclass(frozen=True)
class _Batch:
    """Pictures that follow each other; ``first`` counts those before them, failures too."""

    first: int
    pictures: list[_Picture]


def _batches(files: list[Path], spec: ImageSpec) -> Iterator[tuple[int, _Batch | _Failure]]:
    """Each with the number of the file that is read at that time."""
    size = max(1, min(MAX_PICTURES_TOGETHER, BATCH_BYTES // (4 * int(np.prod(spec.shape)))))
    found: list[_Picture] = []
    first = at = 0
    for at, item in _read(files, spec):
        failed = isinstance(item, _Failure)
        if found and (failed or len(found) == size):
            yield at, _Batch(first, found)
            first, found = first + len(found), []
        if isinstance(item, _Failure):
            yield at, item
            first += item.count
        else:
            found.append(item)
    if found:
        yield at, _Batch(first, found)


def _read(files: list[Path], spec: ImageSpec) -> Iterator[tuple[int, _Picture | _Failure]]:
    for at, file in enumerate(files):
        try:
            for picture in _pictures(file, spec):
                yield at, picture
        except FlowshipError as error:
            yield at, _Failure(str(file), error, _count(file, spec))
        except MemoryError:
            too_large = UsageError(f"{file} is too large for the memory")
            yield at, _Failure(str(file), too_large, _count(file, spec))


def _pictures(file: Path, spec: ImageSpec) -> Iterator[_Picture]:
    if not is_array(file):
        image, prepared = read_prepared(file, spec)
        yield _Picture(str(file), image, prepared or None)
        return
    images = view_images(str(file), map_npy(file), spec)
    for i, image in enumerate(images):
        name = str(file) if len(images) == 1 else f"{file}[{i}]"
        yield _Picture(name, scale_images(image), None)


def _count(file: Path, spec: ImageSpec) -> int:
    """Pictures in a file, 1 where that cannot be said."""
    if not is_array(file):
        return 1
    try:
        return count_images(str(file), map_npy(file), spec)
    except UsageError:
        return 1


def _check_sizes(files: list[Path], spec: ImageSpec) -> None:
    side = spec.img_size
    sizes = {file: picture_size(file) for file in files if not is_array(file)}
    wrong = [(file, size) for file, size in sizes.items() if size not in (None, (side, side))]
    if wrong:
        file, size = wrong[0]
        assert size
        count = len(wrong) - 1
        more = f" ({count} more {'has' if count == 1 else 'have'} another size too)" * (count > 0)
        raise UsageError(
            f"{file} is {size[0]} x {size[1]} pixels{more}: --exact-size takes the model's "
            f"{side} x {side} alone"
        )


# ---- doing --------------------------------------------------------------------------------------


def _do(batch: _Batch, labels: Labels, work: Work[T], done: Done[T]) -> None:
    pictures, first = batch.pictures, batch.first
    images = np.stack([picture.image for picture in pictures])
    try:
        found = work(images, labels[first : first + len(images)], first)
    except NonFiniteError as error:
        if len(pictures) == 1:
            done.fail(pictures[0].name, error)
            return
        for i, picture in enumerate(pictures):  # to lose none but those that cannot be done
            _do(_Batch(first + i, [picture]), labels, work, done)
        return
    done.names += [picture.name for picture in pictures]
    done.prepared += [picture.prepared for picture in pictures]
    done.results += found
