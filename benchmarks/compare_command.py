"""``flowship bench compare A B``: is B faster? With an exit status for regressions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..runtime.commands.options import print_json
from ..runtime.errors import UsageError
from ..runtime.progress import say
from ..runtime.reasons import in_few_lines
from ..runtime.table import format_table
from ..runtime.trust import MIN_EFFECT
from .compare import (
    KEY,
    UNCLEAR,
    Comparison,
    compare_rows,
    regressions,
    select,
    split_condition,
)
from .formats import conditions_of, read_rows
from .options import share

EXITS = (
    "Exit status: 0 if every case is the same or faster, or slower without --fail-if-slower; 1 "
    "with --fail-if-slower if one is slower, failed, missing or makes a wrong picture; 3 if none "
    "of these but one is unclear, with or without --fail-if-slower; 2 for misuse."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare two files that flowship bench, the web app or a phone wrote, in any format, case "
        "by case. Two rows of one file: flowship bench compare F F --a engine=onnx --b "
        "engine=executorch. A verdict is firm only where both sides are trusted and the difference "
        "is more than the machine's own drift."
    )
    parser.epilog = EXITS
    parser.add_argument("a", type=Path, metavar="A", help="md, csv, json, jsonl, sqlite or html")
    parser.add_argument("b", type=Path, metavar="B")
    for side in ("a", "b"):
        parser.add_argument(
            f"--{side}",
            dest=f"only_{side}",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help=f"rows of {side.upper()} with this value alone; of the other file too, unless it "
            "is given another one",
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
        help="smaller differences are the same (3%% within one run, where cases take turns; at "
        "least 15%% between two runs, 25%% where a fixed computation did not take as "
        "long in both)",
    )
    parser.add_argument(
        "--fail-if-slower",
        type=share,
        metavar="P",
        help="exit with 1 if a case of A is slower in B by more than this, as in 5%%, failed, is "
        "missing, or its picture is wrong (--a and --b leave cases out)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    only_a, only_b = arguments.only_a, arguments.only_b
    differ = _ignored(arguments) | (_fields(only_a) & _fields(only_b))
    a = select(read_rows(arguments.a), only_a + _shared(only_b, differ))
    b = select(read_rows(arguments.b), only_b + _shared(only_a, differ))
    ignore = [field for field in KEY if field in differ]
    found = compare_rows(a, b, ignore=ignore, min_effect=arguments.min_effect)
    limit = arguments.fail_if_slower
    failed = regressions(found, limit) if limit is not None else []
    if arguments.json:
        names = [comparison.name for comparison in failed]
        cases = [asdict(comparison) for comparison in found]
        conditions = {"a": conditions_of(a), "b": conditions_of(b)}
        print_json({"comparisons": cases, "regressions": names, "conditions": conditions})
    else:
        print(render(found))
        for side, rows in (("A", a), ("B", b)):
            print("\n".join(f"{side}: {line}" for line in conditions_of(rows)))
    for comparison in failed:
        say(f"regression: {comparison.name}: {_what(comparison)}")
    if failed:
        return 1
    return UNCLEAR if any(comparison.verdict == "unclear" for comparison in found) else 0


def _ignored(arguments: argparse.Namespace) -> set[str]:
    fields = {field for field in arguments.ignore.split(",") if field}
    for field in sorted(fields - set(KEY)):
        raise UsageError(f"--ignore {field}: choose from {', '.join(KEY)}")
    return fields


def _fields(conditions: Sequence[str]) -> set[str]:
    return {split_condition(condition)[0] for condition in conditions}


def _shared(conditions: Sequence[str], differ: set[str]) -> list[str]:
    """What one side's conditions ask of the other: a case left out here is not missing there."""
    fields = [split_condition(condition)[0] for condition in conditions]
    pairs = zip(conditions, fields, strict=True)
    return [condition for condition, field in pairs if field in KEY and field not in differ]


def _what(regression: Comparison) -> str:
    if regression.wrong:
        return "wrong picture"
    if regression.ratio is None:
        return regression.reasons[0]
    return f"{regression.ratio - 1:.1%} slower"


def render(found: list[Comparison]) -> str:
    """A table, and below it why a verdict is not clearer."""
    header = ["case", "A ms", "B ms", "B / A", "95 % interval", "differs from", "verdict"]
    rows = []
    for c in found:
        interval = f"{c.low:.3f} .. {c.high:.3f}" if c.low and c.high else "-"
        numbers = [f"{v:.4g}" if v else "-" for v in (c.a_ms, c.b_ms)]
        numbers += [f"{c.ratio:.3f}" if c.ratio else "-", interval]
        rows.append([c.name, *numbers, f"{c.least:.0%}" if c.least else "-", c.verdict])
    notes = in_few_lines((c.name, c.verdict, c.reasons) for c in found)
    return "\n".join([format_table(header, rows), *_medians(found), *notes])


def _medians(found: list[Comparison]) -> list[str]:
    """Of what they are, where bench shows others for the same rows."""
    counts = sorted({c.rounds for c in found if c.rounds})
    if not counts:
        return []
    rounds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    where = "" if all(c.rounds or not c.a_ms for c in found) else " where cases took turns"
    return [
        f"A ms and B ms{where}: medians of the {rounds} rounds that both have (bench shows those "
        "of all usable samples of a row)"
    ]
