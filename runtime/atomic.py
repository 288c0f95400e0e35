"""Output that appears whole or not at all, whenever the program is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError
from .litter import is_litter
from .manifest import MANIFEST

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes ``path`` when the block ends without an error.

    A device or pipe (``/dev/stdout``) is written straight away; a link's target is replaced.

    Raises:
        UsageError: the folder does not exist, or ``path`` is a folder.
    """
    check_file(path)
    given = Path(path)
    if given.exists() and not given.is_file():
        with given.open("wb") as file:
            yield file
        return
    target = _resolve(path)
    partial = target.with_name(_partial_name(target))
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what atomic_file() would refuse, before hours of work and not after them.

    Raises:
        UsageError: the folder does not exist or cannot be written to, or ``path`` is a folder.
    """
    given = Path(path)
    if given.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    folder = _resolve(path).parent
    replaced = given.is_file() or not given.exists()  # and no device or pipe
    if replaced and not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: no permission to write into the folder {folder}")


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse what atomic_folder() would refuse, before the work.

    Raises:
        UsageError: as atomic_folder(), or the folder around it cannot be written to.
    """
    target = _resolve(path)
    _check_replaceable(target)
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{path}: no permission to write into the folder {target.parent}")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``path`` when the block ends without an error.

    It is called ``.NAME.partial-...`` until then and lies beside ``path``. An existing bundle at
    ``path`` is replaced; what killed programs left beside it is removed.

    Raises:
        UsageError: ``path`` exists and is neither a bundle nor an empty folder, or its parent
            folder does not exist.
    """
    target = _resolve(path)
    _remove_stale(target)
    _check_replaceable(target)
    with _locked_name(target) as partial:
        try:
            partial.mkdir()
            yield partial
            _sync_tree(partial)
            _check_replaceable(target)
            _replace_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _resolve(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist")
    return target


def _partial_name(target: Path) -> str:
    return f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"


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


# Beside each partial folder lies its NAME.lock, from before it is made until it is gone, and the
# program that fills the folder holds the lock: who gets the lock knows that this program is dead.


@contextmanager
def _locked_name(target: Path) -> Iterator[Path]:
    """A free name beside the target, with its lock held."""
    while True:
        partial = target.with_name(_partial_name(target))
        lock = partial.with_name(f"{partial.name}.lock")
        with lock.open("xb") as file:
            try:
                mine = _try_lock(file)
            except OSError:  # a file system without locks: nothing here is ever taken for stale
                mine = True
            # Another program may have taken the new file for a stale one, and removed it.
            if not mine or not lock.exists():
                continue
            try:
                yield partial
            finally:
                _unlink_open(lock)
        lock.unlink(missing_ok=True)
        return


def _remove_stale(target: Path) -> None:
    """Remove what killed programs left, and put an old bundle back that was only moved aside."""
    for lock in target.parent.glob(f"{escape(f'.{target.name}.partial-')}*.lock"):
        with suppress(OSError):  # another program was faster, or the disk has no locks
            with lock.open("r+b") as file:
                if not _try_lock(file):
                    continue
                partial = lock.with_suffix("")
                old = _aside(partial)
                if old.is_dir() and not target.exists():
                    old.rename(target)
                for folder in (partial, old):
                    shutil.rmtree(folder, ignore_errors=True)
                _unlink_open(lock)
            lock.unlink(missing_ok=True)


def _unlink_open(path: Path) -> None:
    with suppress(PermissionError):  # Windows removes it only when it is closed
        path.unlink(missing_ok=True)


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
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for name, _, files in os.walk(folder):
        for file in files:
            _sync(Path(name, file))
        _sync(Path(name))


def _sync(path: Path) -> None:
    """Have the disk write it now, so that a loss of power cannot undo the order of writing."""
    if os.name == "nt":
        return  # it can neither open folders nor sync a file opened for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
