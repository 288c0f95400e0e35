"""Where this user's settings and caches lie; what cannot be found or read there is not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from .errors import UsageError

Kind = Literal["settings", "caches"]
_PLACES = {"settings": ("XDG_CONFIG_HOME", ".config"), "caches": ("XDG_CACHE_HOME", ".cache")}


def user_folder(kind: Kind) -> Path | None:
    """flowship's folder in ``$XDG_CONFIG_HOME`` (~/.config) or ``$XDG_CACHE_HOME`` (~/.cache).

    Returns:
        None where there is no home: no HOME, and no name for this user's number.
    """
    variable, default = _PLACES[kind]
    try:
        return Path(os.environ.get(variable) or Path.home() / default) / "flowship"
    except RuntimeError:
        return None


def make_user_folder(kind: Kind, *names: str) -> Path:
    """A folder in it that can be written to, made where it is not there.

    Raises:
        UsageError: it cannot be had; the message names the variable that helps.
    """
    variable = _PLACES[kind][0]
    top = user_folder(kind)
    if top is None:
        raise UsageError(
            f"no place for {kind}, this user has no home folder: name a folder in the variable "
            f"{variable}"
        )
    folder = top.joinpath(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise UsageError(
            f"{folder}: no place for {kind} ({error.strerror}): name a folder that can be written "
            f"to in the variable {variable}"
        ) from error
    return folder
