"""Files of a bundle laid out as plain ones, for engines that trip over links and litter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .errors import BundleError


def lay_out(files: Mapping[str, Path], folder: Path) -> None:
    """Put each file below ``folder`` by its name, where it is not there already.

    Hard links, which take no room; copies where the disk is another one.

    Raises:
        BundleError: there is no room.
        OSError: a file cannot be read or written.
    """
    for name, source in files.items():
        target = folder / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, one without hard links, or a file of another user
            _copy(source, target, folder)


def _copy(source: Path, target: Path, folder: Path) -> None:
    num_bytes, free = source.stat().st_size, shutil.disk_usage(folder).free
    if num_bytes > free:
        raise BundleError(
            f"a copy of {num_bytes:,} bytes does not fit {folder.parent}, which has {free:,} free: "
            "copy the bundle with its links followed (cp -rL), or set TMPDIR to its disk"
        )
    partial = target.with_name(f"{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
