"""Output that appears whole or not at all, whenever the program is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError
from .litter import is_litter
from .locks import held_name, remove_abandoned, unused_name
from .manifest import MANIFEST

# Where a file or folder cannot be synced (SMB, 9p, many FUSE ones; folders that may be written to
# but not read), a guarantee is lost and not the result. A full or broken disk says others.
_CANNOT_SYNC = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES,
    errno.EBADF, errno.EISDIR, errno.ENOTTY, errno.ENODEV, errno.ENXIO, errno.EROFS,
}  # fmt: skip
# Where a system or its disk may know no files without a name (open(2) of Linux, O_TMPFILE).
_CANNOT_BE_NAMELESS = {
    errno.ENOTSUP, errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EACCES,
    errno.EPERM,
}  # fmt: skip

# No fault of the place that was named: another one may help, or may not.
OUT_OF_ORDER = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes ``path`` when the block ends without an error.

    A device or pipe (``/dev/stdout``) is written straight away; a link's target is replaced.

    Raises:
        UsageError: the folder does not exist, or ``path`` is a folder.
    """
    given, target = Path(path), _target(path)
    if target is None:
        with naming(given), given.open("wb") as file:
            yield file
        return
    partial = target.with_name(unused_name(_prefix(target)))
    with naming(given, partial):
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                _sync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_path(target.parent)


@contextmanager
def naming(path: str | os.PathLike[str], partial: Path | None = None) -> Iterator[None]:
    """Give errors of the system the name of what is written: those of write and fsync have none.

    Args:
        partial: what it is called until it is whole; nobody knows that name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        elif partial and isinstance(error.filename, str):
            error.filename = error.filename.replace(str(partial), str(path))
            del error.filename2
        raise


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what atomic_file() would refuse, before hours of work and not after them.

    Raises:
        UsageError: the folder does not exist or cannot be written to, or ``path`` is a folder.
    """
    if target := _target(path):
        _check_writable(path, target.parent)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse what atomic_folder() would refuse, before the work.

    Raises:
        UsageError: as atomic_folder(), or the folder around it cannot be written to.
    """
    target = _resolve(path)
    _check_replaceable(target)
    _check_writable(path, target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``path`` when the block ends without an error.

    It is called ``.NAME.partial-...`` until then and lies beside ``path``. An existing bundle at
    ``path`` is replaced; what killed programs left beside it is removed.

    Raises:
        UsageError: ``path`` exists and is neither a bundle nor an empty folder, or its parent
            folder does not exist or cannot be written to.
    """
    target = _resolve(path)
    _check_writable(path, target.parent)
    remove_abandoned(target.parent, _prefix(target), lambda left: _remove_stale(left, target))
    _check_replaceable(target)
    with held_name(target.parent, _prefix(target)) as partial, naming(path, partial):
        try:
            partial.mkdir()
            yield partial
            _sync_tree(partial)
            _check_replaceable(target)
            _replace_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def try_writing(folder: Path) -> None:
    """Make a file and remove it: permissions alone do not tell, least of all to root.

    Raises:
        OSError: the folder takes no files.
    """
    try:
        os.close(_nameless(folder))
        return
    except OSError as error:
        if error.errno not in _CANNOT_BE_NAMELESS:
            error.filename = str(folder)
            raise
    probe = folder / unused_name(".flowship-probe-")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        error.filename = str(folder)
        raise
    probe.unlink(missing_ok=True)


def _nameless(folder: Path) -> int:
    """An open file that nothing is left of, also when the program is killed."""
    if not hasattr(os, "O_TMPFILE"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)


def _target(path: str | os.PathLike[str]) -> Path | None:
    """The file that is replaced; None for a device or pipe."""
    given = Path(path)
    if given.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    target = _resolve(path)
    return target if given.is_file() or not given.exists() else None


def _resolve(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist")
    return target


def _check_writable(path: str | os.PathLike[str], folder: Path) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        if error.errno in OUT_OF_ORDER:
            raise
        reason = f"{error.strerror} in the folder {folder}"
        raise UsageError(f"{path} cannot be written: {reason}") from error


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _check_replaceable(target: Path) -> None:
    if target.is_dir():
        if _is_bundle(target) or all(map(is_litter, target.iterdir())):
            return
        raise UsageError(f"{target} is a folder with other things in it: choose another name")
    if target.exists():
        raise UsageError(f"{target} is a file: choose another name")


def _is_bundle(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and "schema_version" in manifest


def _remove_stale(partial: Path, target: Path) -> None:
    """Remove what a killed program left, and put an old bundle back that was only moved aside."""
    old = _aside(partial)
    if old.is_dir() and not target.exists():
        old.rename(target)
    for folder in (partial, old):
        shutil.rmtree(folder, ignore_errors=True)


def _aside(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.old")


def _replace_folder(partial: Path, target: Path) -> None:
    old = _aside(partial)
    try:
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    _sync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for name, _, files in os.walk(folder):
        for file in files:
            _sync_path(Path(name, file))
        _sync_path(Path(name))


def _sync_path(path: Path) -> None:
    if os.name == "nt":
        return  # it can neither open folders nor sync a file opened for reading
    with naming(path):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            _raise_unless_unable(error)
            return
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Have the disk write it now, so that a loss of power cannot undo the order of writing."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        _raise_unless_unable(error)


def _raise_unless_unable(error: OSError) -> None:
    if error.errno not in _CANNOT_SYNC:
        raise error
