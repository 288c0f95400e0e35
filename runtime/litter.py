"""What file managers and disks leave in folders: no part of a bundle, and no harm to one."""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .safe_paths import walk_files

# In small letters: Windows writes Desktop.ini and desktop.ini, and both are one file there.
_FILES = {".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"}
_FOLDERS = {
    "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems",
    "system volume information", "$recycle.bin", "@eadir",
}  # fmt: skip
_APPLE_DOUBLE = "._"  # macOS keeps what exFAT and SMB cannot hold of x in ._x beside it


def is_litter_name(path: str, exists: Callable[[str], bool]) -> bool:
    """Whether a file by this relative path is litter.

    Args:
        exists: whether there is a file or folder by a path; ``._x`` is litter where there is ``x``.
    """
    *folders, name = path.split("/")
    if not _FOLDERS.isdisjoint(folder.casefold() for folder in folders):
        return True
    of = name.removeprefix(_APPLE_DOUBLE)
    if of.casefold() in _FILES:
        return True
    return of != name and of != "" and exists("/".join([*folders, of]))


def is_litter(path: Path) -> bool:
    """Whether a file is litter by its name alone; a link or a folder by such a name is not."""
    return _is_plain(path) and is_litter_name(path.name, lambda name: (path.parent / name).exists())


def foreign_files(root: Path, known: Collection[str]) -> Iterator[str]:
    """What lies below a folder, links included, and is neither known nor litter."""
    for name in walk_files(root):
        litter = is_litter_name(name, lambda other: (root / other).exists())
        if name not in known and not (litter and _is_plain(root / name)):
            yield name


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)
