"""Paths that a stranger wrote: they mean the same file on every system and stay in their folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import BundleError

LFS_POINTER = b"version https://git-lfs"  # begins what a clone without Git LFS has for a file
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
    """``root / relative`` if it is a regular file of this size, or where a link to one ends.

    Folders on the way must not be links; the root itself may be reached through them. Who asks
    knows the file's hash, so a link opens nothing that the manifest does not name. A program that
    changes the folder at the same time is not guarded against.

    Raises:
        BundleError: it is missing, not a file, of another size, or behind a linked folder.
    """
    check_relative(relative)
    path, status = root, None
    for name in relative.split("/"):
        if status and is_link(status):
            raise BundleError(
                f"{relative}: the folder {path.name!r} is a link, only files may be links in a "
                "bundle: copy it with its links followed (cp -rL)"
            )
        path = path / name
        try:
            status = path.lstat()
        except OSError as error:
            raise BundleError(f"{relative} is missing: {error.strerror}") from error
    assert status is not None
    if is_link(status):
        return _end_of_link(path, relative, num_bytes)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{relative} is not a regular file")
    if status.st_size != num_bytes:
        check_no_pointer(relative, path)
        raise BundleError(f"{relative} has {status.st_size:,} bytes, expected {num_bytes:,}")
    return path


def check_no_pointer(relative: str, path: Path) -> None:
    """Raise BundleError where Git LFS left a file's name and hash in its place."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BundleError(f"{relative} is a Git LFS pointer: git lfs pull fetches the files")


def _end_of_link(path: Path, relative: str, num_bytes: int) -> Path:
    """As download caches lay files. What else a link ends in is not told: not even its size."""
    status = status_behind(path, relative)
    if status.st_size != num_bytes:
        raise BundleError(
            f"{relative} is a link to a file of another size than {num_bytes:,} bytes"
        )
    return path.resolve()


def status_behind(link: Path, relative: str) -> os.stat_result:
    """Of the regular file that a link ends in.

    Raises:
        BundleError: it ends in nothing, itself, a folder, a device or a pipe.
    """
    try:
        status = link.stat()
    except OSError as error:
        raise BundleError(
            f"{relative} is a link that leads nowhere ({error.strerror}): copy or download the "
            "bundle again, with huggingface_hub into a folder of its own (local_dir=)"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{relative} is a link to something other than a regular file")
    return status


def walk_files(root: Path) -> Iterator[str]:
    """Everything below a folder that is not a folder, links included, relative and sorted."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if is_link(Path(folder, name).lstat())]
        folders[:] = sorted(set(folders).difference(links))
        for name in sorted(files + links):
            yield Path(folder, name).relative_to(root).as_posix()
