"""Whether results can be written where they shall go: asked before an hour of measuring."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..runtime.atomic import check_file
from ..runtime.errors import UsageError
from .formats import SQLITE_SUFFIXES, check_database, check_suffix, read_rows

REPORT = ".html"


def check_output(path: Path) -> None:
    """Refuse what write_rows() or write_report() could not write.

    Raises:
        UsageError: an unknown suffix, no such folder, a folder, no permission, or a file to grow
            that is not one of ours.
    """
    check_place(path)
    if path.suffix.lower() != REPORT:
        check_suffix(path)
    if path.suffix.lower() == ".jsonl" and path.is_file():
        read_rows(path)
    elif path.suffix.lower() in SQLITE_SUFFIXES and path.is_file():
        check_database(path)


def check_report(path: Path) -> None:
    """The same for a report, which is always HTML.

    Raises:
        UsageError: another suffix, or a place that cannot be written.
    """
    check_place(path)
    is_device = path.exists() and not path.is_file()  # such as /dev/stdout
    if path.suffix.lower() not in (REPORT, ".htm") and not is_device:
        raise UsageError(f"{path}: the report is HTML: name a file with {REPORT}")


def check_place(path: Path) -> None:
    """A file is made beside ``path`` and removed: permissions alone do not tell.

    Raises:
        UsageError: the folder is not there or cannot be written, or ``path`` is a folder.
    """
    check_file(path)
    if path.exists() and not path.is_file():
        return
    target = Path(os.path.realpath(path))
    probe = target.with_name(f".{target.name}.probe-{secrets.token_hex(4)}")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
