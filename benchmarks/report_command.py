"""``flowship bench report``: one HTML file of rows from any devices."""

from __future__ import annotations

import argparse
from pathlib import Path

from .formats import read_rows
from .outputs import check_report
from .report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="md, csv, json, jsonl, sqlite or html"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="HTML", help="the report to write"
    )


def run(arguments: argparse.Namespace) -> int:
    check_report(arguments.output)
    rows = [row for path in arguments.files for row in read_rows(path)]
    write_report(arguments.output, rows)
    print(arguments.output)
    return 0
