"""What is written under a name: its suffix says it, and is checked before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from .atomic import OUT_OF_ORDER, check_file, try_writing
from .errors import UsageError

PathLike = str | os.PathLike[str]

PNG, JPEG, WEBP, NPY, NPZ = "PNG", "JPEG", "WEBP", "NPY", "NPZ"
PICTURES, ARRAYS = (PNG, JPEG, WEBP), (NPY, NPZ)
SUFFIXES = {
    ".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".npy": NPY, ".npz": NPZ,
}  # fmt: skip


def check_output(path: PathLike, kinds: Sequence[str], option: str = "-o") -> str:
    """Which of ``kinds`` is written to ``path``; a device or pipe takes the first of them.

    Raises:
        UsageError: another suffix or none, or what check_file() refuses.
    """
    check_file(path)
    return output_kind(path, kinds, option)


def output_kind(path: PathLike, kinds: Sequence[str], option: str = "-o") -> str:
    """The same without a look at the place."""
    known = {suffix: kind for suffix, kind in SUFFIXES.items() if kind in kinds}
    suffix = Path(path).suffix.lower()
    if suffix in known:
        return known[suffix]
    if is_device(path):
        return kinds[0]
    check_suffix(path, tuple(known), option)
    raise AssertionError("its suffix is unknown")


def check_new_names(folder: Path) -> None:
    """Refuse a folder in which no file can be made, where the names are found later.

    Raises:
        UsageError: it is not there or cannot be written to.
    """
    try:
        try_writing(folder)
    except OSError as error:
        if error.errno in OUT_OF_ORDER:
            raise
        raise UsageError(
            f"no file can be made in the folder {folder} ({error.strerror}): name another place "
            "with -o"
        ) from error


def check_suffix(path: PathLike, suffixes: Sequence[str], option: str = "-o") -> None:
    """Refuse names that end otherwise, whatever their case; devices and pipes have any name.

    Raises:
        UsageError: with what can be written.
    """
    if Path(path).suffix.lower() in suffixes or is_device(path):
        return
    raise UsageError(f"{option} {path}: name a file that ends in {' or '.join(suffixes)}")


def is_device(path: PathLike) -> bool:
    """Whether it is no file of its own: a device, a pipe, or a stream of this program."""
    given = os.path.abspath(path)
    if given.startswith(("/dev/", "/proc/self/fd/")):
        return True  # /dev/stdout leads to a file where the shell redirects it
    return os.path.exists(given) and not os.path.isfile(given)


@contextmanager
def free_name(path: Path, data: bytes | None = None) -> Iterator[Path]:
    """``path``, or NAME-1, NAME-2, ... where that is taken: an empty file that nobody else gets.

    It is removed when the block ends with an error.

    Args:
        data: a file that holds just that counts as free.
    """
    for candidate in numbered(path):
        if data is not None and _holds(candidate, data):
            yield candidate
            return
        try:
            candidate.open("xb").close()
        except FileExistsError:
            continue
        try:
            yield candidate
        except BaseException:
            candidate.unlink(missing_ok=True)
            raise
        return


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def numbered(path: Path) -> Iterator[Path]:
    """x.png, x-1.png, x-2.png, ..."""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
