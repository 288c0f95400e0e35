"""Where this user's settings and caches lie; what cannot be found or read there is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from .atomic import OUT_OF_ORDER, try_writing
from .errors import UsageError

Kind = Literal["settings", "caches"]
_PLACES = {"settings": ("XDG_CONFIG_HOME", ".config"), "caches": ("XDG_CACHE_HOME", ".cache")}


def user_folder(kind: Kind, *names: str) -> Path | None:
    """A folder in flowship's, which is in ``$XDG_CONFIG_HOME`` (~/.config) or ``$XDG_CACHE_HOME``
    (~/.cache). A relative one does not count, as the XDG Base Directory Specification says.

    Returns:
        None where there is no home: no HOME, and no name for this user's number.
    """
    variable, default = _PLACES[kind]
    named = os.environ.get(variable, "")
    try:
        top = named if os.path.isabs(named) else Path.home() / default
        return Path(top, "flowship", *names)
    except RuntimeError:
        return None


def make_user_folder(kind: Kind, *names: str) -> Path:
    """The same folder, made where it is not there; it can be written to.

    Raises:
        UsageError: it cannot be had; the message names the variable that helps.
    """
    variable = _PLACES[kind][0]
    folder = user_folder(kind, *names)
    if folder is None:
        raise UsageError(
            f"no place for {kind}, this user has no home folder: name a folder in the variable "
            f"{variable}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder)
    except OSError as error:
        if error.errno in OUT_OF_ORDER:
            raise
        raise UsageError(
            f"{folder}: no place for {kind} ({error.strerror}): name a folder that can be written "
            f"to in the variable {variable}"
        ) from error
    return folder
