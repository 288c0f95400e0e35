"""``flowship bench compare A B``: is B faster? With an exit status for regressions."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from ..runtime.commands.options import print_json
from ..runtime.errors import UsageError
from ..runtime.table import format_table
from .compare import (
    KEY,
    MIN_EFFECT,
    Comparison,
    compare_rows,
    regressions,
    select,
    split_condition,
)
from .formats import read_rows
from .options import share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare two files that flowship bench, the web app or a phone wrote, in any format, case "
        "by case. Two rows of one file: flowship bench compare F F --a engine=onnx --b "
        "engine=executorch"
    )
    parser.add_argument("a", type=Path, metavar="A", help="md, csv, json, jsonl, sqlite or html")
    parser.add_argument("b", type=Path, metavar="B")
    for side in ("a", "b"):
        parser.add_argument(
            f"--{side}",
            dest=f"only_{side}",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help=f"rows of {side.upper()} with this value alone; the field may differ then",
        )
    parser.add_argument(
        "--ignore",
        default="",
        metavar="FIELDS",
        help=f"fields that may differ between the two, of {', '.join(KEY)}",
    )
    parser.add_argument(
        "--min-effect",
        type=share,
        default=MIN_EFFECT,
        metavar="P",
        help="smaller differences are the same (3%%)",
    )
    parser.add_argument(
        "--fail-if-slower",
        type=share,
        metavar="P",
        help="exit with 1 if a case of A is slower in B by more than this, as in 5%%, failed, is "
        "missing (without --b), or its picture is wrong",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    a = select(read_rows(arguments.a), arguments.only_a)
    b = select(read_rows(arguments.b), arguments.only_b)
    found = compare_rows(a, b, ignore=_ignored(arguments), min_effect=arguments.min_effect)
    limit = arguments.fail_if_slower
    # who chooses rows of B has left the others out
    missing = not arguments.only_b
    failed = regressions(found, limit, missing=missing) if limit is not None else []
    if arguments.json:
        names = [comparison.name for comparison in failed]
        cases = [asdict(comparison) for comparison in found]
        print_json({"comparisons": cases, "regressions": names})
    else:
        print(render(found))
    for comparison in failed:
        print(f"regression: {comparison.name}: {_what(comparison)}", file=sys.stderr)
    return int(bool(failed))


def _ignored(arguments: argparse.Namespace) -> list[str]:
    fields = [field for field in arguments.ignore.split(",") if field]
    for field in fields:
        if field not in KEY:
            raise UsageError(f"--ignore {field}: choose from {', '.join(KEY)}")
    return fields + [split_condition(c)[0] for c in arguments.only_a + arguments.only_b]


def _what(regression: Comparison) -> str:
    if regression.wrong:
        return "wrong picture"
    if regression.ratio is None:
        return regression.reasons[0]
    return f"{regression.ratio - 1:.1%} slower"


def render(found: list[Comparison]) -> str:
    """A table, and below it why a verdict is not clearer."""
    header = ["case", "A ms", "B ms", "B / A", "95 % interval", "verdict"]
    rows = []
    for c in found:
        interval = f"{c.low:.3f} .. {c.high:.3f}" if c.low and c.high else "-"
        numbers = [f"{v:.4g}" if v else "-" for v in (c.a_ms, c.b_ms)]
        rows.append([c.name, *numbers, f"{c.ratio:.3f}" if c.ratio else "-", interval, c.verdict])
    notes = [f"{c.name}: {reason}" for c in found for reason in c.reasons]
    return "\n".join([format_table(header, rows), *notes])
