"""Whether results can be written where they shall go: asked before an hour of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runtime.atomic import check_file
from ..runtime.outputs import check_suffix
from .formats import SQLITE_SUFFIXES, check_database, check_format, read_rows, write_rows
from .report import write_report
from .row import Row

REPORT = ".html"


def write_output(path: Path, rows: Sequence[Row]) -> None:
    """Write what the suffix says: rows in one of the formats, or the report.

    Raises:
        UsageError: as check_output().
    """
    (write_report if path.suffix.lower() == REPORT else write_rows)(path, rows)


def check_output(path: Path) -> None:
    """Refuse what write_output() could not write.

    Raises:
        UsageError: an unknown suffix, no such folder, a folder, no permission, or a file to grow
            that is not one of ours.
    """
    check_file(path)
    if path.suffix.lower() != REPORT:
        check_format(path, REPORT)
    if path.suffix.lower() == ".jsonl" and path.is_file():
        read_rows(path)
    elif path.suffix.lower() in SQLITE_SUFFIXES and path.is_file():
        check_database(path)


def check_report(path: Path) -> None:
    """The same for a report, which is always HTML.

    Raises:
        UsageError: another suffix, or a place that cannot be written.
    """
    check_file(path)
    check_suffix(path, (REPORT, ".htm"))
