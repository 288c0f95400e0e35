"""Paths that a stranger wrote: they mean the same file on every system and stay in their folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import BundleError

_MAX_LENGTH, _MAX_DEPTH = 512, 32
# Printable ASCII without what Windows forbids: no Unicode forms to confuse, no drive letters.
_NAME = re.compile(r"[^\x00-\x1f\x7f-\U0010ffff<>:\"/\\|?*]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows devices


def check_relative(path: str) -> None:
    """Accept only a portable relative path: ``a/b.bin``, ASCII, no ``..``, no drive letter.

    Raises:
        BundleError: anything else.
    """
    shown = repr(path) if len(path) <= 80 else repr(path[:80]) + "..."
    names = path.split("/")
    if len(path) > _MAX_LENGTH or len(names) > _MAX_DEPTH:
        raise BundleError(
            f"the path {shown} is longer than {_MAX_LENGTH} characters or {_MAX_DEPTH} folders"
        )
    for name in names:
        if name in ("", ".", "..") or not _NAME.fullmatch(name):
            raise BundleError(
                f"the path {shown} is not allowed in a bundle: expected a relative path in ASCII "
                "with forward slashes, without '..', drive letters or special characters"
            )
        if _RESERVED.fullmatch(name) or name[-1] in ". ":
            raise BundleError(
                f"the path {shown} is not allowed in a bundle: Windows cannot store {name!r}"
            )


def check_distinct(paths: Iterable[str]) -> None:
    """Raise BundleError if two paths are one file where case is ignored (macOS, Windows)."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.casefold(), path)
        if other is not path:
            raise BundleError(
                f"the paths {other!r} and {path!r} are the same file on a disk that ignores case"
            )


def is_link(status: os.stat_result) -> bool:
    """A symbolic link, or a junction on Windows."""
    tag = getattr(status, "st_reparse_tag", 0)
    return stat.S_ISLNK(status.st_mode) or tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)


def regular_file(root: Path, relative: str, num_bytes: int) -> Path:
    """``root / relative``, if it is a regular file of this size and nothing on the way is a link.

    The root itself may be reached through links. A program that changes the folder at the same time
    is not guarded against.

    Raises:
        BundleError: it is missing, a link, not a file, or of another size.
    """
    check_relative(relative)
    path = root
    for name in relative.split("/"):
        path = path / name
        try:
            status = path.lstat()
        except OSError as error:
            raise BundleError(f"{relative} is missing: {error.strerror}") from error
        if is_link(status):
            raise BundleError(f"{relative}: {name!r} is a link, a bundle holds only plain files")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{relative} is not a regular file")
    if status.st_size != num_bytes:
        raise BundleError(f"{relative} has {status.st_size:,} bytes, expected {num_bytes:,}")
    return path


def walk_files(root: Path) -> Iterator[str]:
    """Everything below a folder that is not a folder, links included, relative and sorted."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if is_link(Path(folder, name).lstat())]
        folders[:] = sorted(set(folders).difference(links))
        for name in sorted(files + links):
            yield Path(folder, name).relative_to(root).as_posix()
