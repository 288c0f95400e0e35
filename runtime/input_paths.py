"""What is wrong with the path of a file to be read, before a word is said about its contents."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import UsageError


def check_readable(path: str | os.PathLike[str], what: str = "", *, folder: bool = False) -> None:
    """Refuse what is no file that can be read.

    Args:
        what: such as the option that named it, for the error.
        folder: a folder will do.

    Raises:
        UsageError: there is nothing, it is a folder, or it may not be read.
    """
    name = f"{what} {os.fspath(path)}".lstrip()
    if not os.fspath(path):
        raise UsageError(f"{what or 'a file'}: the name is empty")
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} {why_not(path, error)}") from error
    if stat.S_ISDIR(mode) and not folder:
        raise UsageError(f"{name} is a folder: name a file")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{name} may not be read: permission denied")


def check_regular(path: str | os.PathLike[str], what: str = "") -> None:
    """The same for a file that is read out of order, which a pipe cannot be.

    Raises:
        UsageError: as check_readable(), or it is a device or pipe.
    """
    check_readable(path, what)
    if not os.path.isfile(path):
        name = f"{what} {os.fspath(path)}".lstrip()
        raise UsageError(f"{name} is not a regular file")


def why_not(path: str | os.PathLike[str], error: Exception) -> str:
    """Why a path cannot be opened, to be said after its name."""
    place = Path(path)
    if isinstance(error, FileNotFoundError):
        return "is a link to nothing" if place.is_symlink() else "does not exist"
    if isinstance(error, NotADirectoryError):
        above = next((folder for folder in place.parents if folder.is_file()), place.parent)
        return f"does not exist: {above} is a file"
    if isinstance(error, IsADirectoryError):
        return "is a folder: name a file"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
