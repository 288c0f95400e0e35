"""Names that a living program holds, so that what killed programs left is told from what is in use.

Beside each partial or temporary folder lies its NAME.lock, from before it is made until it is gone,
and the program that fills the folder holds the lock: who gets the lock knows that this program is
dead, also after ``kill -9``.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError

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


def unused_name(prefix: str) -> str:
    """A name that nobody else uses, also not another machine on the same disk."""
    return f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"


@contextmanager
def held_name(folder: Path, prefix: str) -> Iterator[Path]:
    """A free name in a folder, with its lock held."""
    while True:
        path = folder / unused_name(prefix)
        lock = path.with_name(f"{path.name}.lock")
        with open(lock, "xb", opener=_for_this_user) as file:
            try:
                mine = _try_lock(file)
            except OSError:  # a file system without locks: nothing here is ever taken for stale
                mine = True
            # Another program may have taken the new file for a stale one, and removed it.
            if not mine or not lock.exists():
                continue
            try:
                yield path
            finally:
                _unlink_open(lock)
        lock.unlink(missing_ok=True)
        return


def remove_abandoned(
    folder: Path, prefix: str, remove: Callable[[Path], None], *, own: bool = False
) -> None:
    """Call ``remove`` with each held name of dead programs, then remove its lock.

    Args:
        own: of this user alone; in a folder for everybody, another one's names are left alone.
    """
    ours = re.compile(rf"{re.escape(prefix)}\d+-[0-9a-f]+\.lock")
    for lock in folder.glob(f"{escape(prefix)}*.lock"):
        if not ours.fullmatch(lock.name):
            continue
        with suppress(OSError):  # another program was faster, or the disk has no locks
            if not _is_regular(lock.lstat(), own):
                continue
            with lock.open("r+b") as file:
                if not _try_lock(file):
                    continue
                remove(lock.with_suffix(""))
                _unlink_open(lock)
            lock.unlink(missing_ok=True)


@contextmanager
def private_folder(parent: Path | None = None, prefix: str = "flowship-") -> Iterator[Path]:
    """A new folder that only this user can enter, gone after the block.

    What killed programs of this user left there under the same prefix goes first.

    Args:
        parent: None for the system's folder of temporary files.

    Raises:
        UsageError: no folder of temporary files can be written to.
    """
    place = parent or _temporary_folder()
    remove_abandoned(place, prefix, _remove_own_folder, own=True)
    with held_name(place, prefix) as path:
        try:
            path.mkdir(0o700)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _temporary_folder() -> Path:
    import tempfile  # takes 10 ms, and most commands need no such folder

    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.strerror or error}: name one that can be written to in the variable TMPDIR"
        ) from error


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # who else could open it could hold the lock


def _is_regular(status: os.stat_result, own: bool) -> bool:
    return stat.S_ISREG(status.st_mode) and not (own and _is_foreign(status))


def _is_foreign(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and status.st_uid != os.geteuid()


def _remove_own_folder(path: Path) -> None:
    with suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and not _is_foreign(status):
            shutil.rmtree(path, ignore_errors=True)


def _unlink_open(path: Path) -> None:
    with suppress(PermissionError):  # Windows removes it only when it is closed
        path.unlink(missing_ok=True)
