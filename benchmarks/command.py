"""``flowship bench``: how fast, how right and how believable, over a grid of settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..runtime.commands.options import refuse_together
from ..runtime.engines.base import MAX_THREADS
from ..runtime.errors import UsageError
from ..runtime.progress import ProgressLine
from .against import baseline_jobs, check_same_weights, with_baseline
from .contender import BundlePath, Subject
from .formats import FORMATS, dumps, table, write_rows
from .grid import Grid, parse_counts, parse_numbers, parse_switches, parse_words
from .measure import Effort, Job, measure, new_row
from .options import share
from .outputs import check_output
from .reached import limits_of_this_machine
from .report import write_report
from .row import Row
from .synthetic_models import synthetic_bundle

DEFAULTS = Effort()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure bundles. Options with LIST take several values, which are crossed: 1,2,4 or 1-4 "
        "or 1..16*2. See also: flowship bench compare, report, predict."
    )
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="folders or zips (the embedded one)"
    )
    parser.add_argument(
        "--model",
        metavar="LIST",
        help="published sizes with random weights, such as tarflow-afhq256 (exported once)",
    )
    _add_grid(parser)
    _add_picture(parser)
    _add_effort(parser)
    _add_output(parser)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("grid")
    group.add_argument("--engine", default="onnx", metavar="LIST", help="(%(default)s)")
    group.add_argument("--precision", metavar="LIST", help="(the bundle's first for the engine)")
    group.add_argument("--device", default="cpu", metavar="LIST", help="(%(default)s)")
    group.add_argument(
        "--threads", default="auto", metavar="LIST", help="of one call (auto: by the saved plan)"
    )
    group.add_argument(
        "--spinning",
        default="auto",
        metavar="LIST",
        help="no, yes: idle threads wait actively; faster on an idle machine, ruinous on a busy "
        "one (auto: by the saved plan, else no)",
    )
    group.add_argument(
        "--window", default="auto", metavar="LIST", help="patches in one call (auto: the plan)"
    )
    group.add_argument("--guidance", default="0", metavar="LIST", help="scales (0)")


def _add_picture(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("picture")
    group.add_argument("--seed", type=int, default=Subject.seed, metavar="N", help="(%(default)s)")
    group.add_argument("--label", type=int, metavar="N", help="number of a class (0)")
    group.add_argument(
        "--patches",
        type=int,
        metavar="K",
        help="run the first K patches of each block and extrapolate (the whole picture)",
    )


def _add_effort(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("effort, of each case")
    count: dict[str, int | float] = {
        "--warm-up": DEFAULTS.warm_up,
        "--min-repeats": DEFAULTS.min_repeats,
        "--max-repeats": DEFAULTS.max_repeats,
    }
    for option, value in count.items():
        group.add_argument(option, type=int, default=value, metavar="N", help="(%(default)s)")
    group.add_argument(
        "-r", "--repeats", type=int, metavar="N", help="exactly N, instead of until it is sure"
    )
    group.add_argument(
        "--max-seconds", type=float, default=DEFAULTS.max_seconds, metavar="S", help="(%(default)s)"
    )
    group.add_argument(
        "--uncertainty",
        type=share,
        default=DEFAULTS.uncertainty,
        metavar="P",
        help="stop when the median is known this well (1%%)",
    )
    group.add_argument(
        "--interleave",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cases take turns, so that a busy moment hits all (yes); no: one in memory at a time",
    )
    group.add_argument(
        "--cold",
        action=argparse.BooleanOptionalAction,
        default=DEFAULTS.cold,
        help="time to first image and peak memory in a new process (yes)",
    )
    group.add_argument(
        "--baseline",
        type=Path,
        metavar="CHECKPOINT",
        help="let the reference's algorithm (Model.reverse, and GS-Jacobi) on the trained "
        "checkpoint take turns, in torch eager, for ratios",
    )
    group.add_argument(
        "--limits",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure this machine's read bandwidth and matrix product rate to compare with (yes)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format", choices=FORMATS, default="md", help="printed on stdout (%(default)s)"
    )
    group.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write .md, .csv, .json, .jsonl, .sqlite (the last two grow) or .html too; repeatable",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    for path in arguments.output:
        check_output(path)
    grid, subject, effort = _grid(arguments), _subject(arguments), _effort(arguments)
    if arguments.baseline and (subject.patches is not None or not arguments.interleave):
        raise UsageError("--baseline takes turns with whole pictures: no --patches, interleaved")
    progress = ProgressLine(not arguments.quiet)
    template = new_row()
    paths, synthetic = _bundles(arguments, grid, progress)
    rivals = _rivals(arguments.baseline, paths, subject, grid, template)
    progress.clear()
    progress = ProgressLine(not arguments.quiet)  # what went before says nothing of what is left
    try:
        rows = measure(
            paths,
            list(grid.cases(len(paths))),
            subject,
            effort,
            synthetic=synthetic,
            interleave=arguments.interleave,
            limits=limits_of_this_machine if arguments.limits else None,
            extra=rivals,
            template=template,
            progress=progress.update,
        )
    finally:
        progress.clear()
    if all(row.status == "skipped" for row in rows):
        reasons = list(dict.fromkeys(row.reason or "" for row in rows))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UsageError(f"nothing of the grid can run: {reasons[0]}{more}")
    if rivals:
        rows = with_baseline(rows, rivals)
    text = table(rows) if arguments.format == "md" else dumps(rows, arguments.format)
    print(text, end="")
    for path in arguments.output:
        writer: Callable[[Path, list[Row]], None] = (
            write_report if path.suffix.lower() == ".html" else write_rows
        )
        writer(path, rows)
    return _status(rows)


def _rivals(
    checkpoint: Path | None,
    bundles: Sequence[BundlePath],
    subject: Subject,
    grid: Grid,
    template: Row,
) -> list[Job]:
    if checkpoint is None:
        return []
    weights = check_same_weights(checkpoint, bundles)
    return baseline_jobs(checkpoint, weights, subject, grid.guidances, template)


def _status(rows: list[Row]) -> int:
    """1 where a case failed; skipped ones are in the table."""
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        print(f"flowship bench: {row.name}: {row.reason}", file=sys.stderr)
    return int(bool(failed))


def _grid(arguments: argparse.Namespace) -> Grid:
    precisions = parse_words(arguments.precision, "--precision") if arguments.precision else [None]
    threads = parse_counts(arguments.threads, "--threads")
    if any(count is not None and count > MAX_THREADS for count in threads):
        raise UsageError(f"--threads {arguments.threads}: {MAX_THREADS} is the most")
    return Grid(
        engines=parse_words(arguments.engine, "--engine"),
        precisions=precisions,
        devices=parse_words(arguments.device, "--device"),
        threads=threads,
        windows=parse_counts(arguments.window, "--window"),
        guidances=parse_numbers(arguments.guidance, "--guidance"),
        spinnings=parse_switches(arguments.spinning, "--spinning"),
    )


def _subject(arguments: argparse.Namespace) -> Subject:
    if arguments.patches is not None and arguments.patches < 2:
        raise UsageError(f"--patches {arguments.patches}: 2 are the least, the first costs nothing")
    return Subject(arguments.seed, arguments.label, arguments.patches)


def _effort(arguments: argparse.Namespace) -> Effort:
    refuse_together(arguments, "repeats", "min_repeats", "max_repeats", "max_seconds")
    if arguments.repeats is not None:
        low = high = arguments.repeats
        seconds = float("inf")
    else:
        low, high, seconds = arguments.min_repeats, arguments.max_repeats, arguments.max_seconds
    if not 1 <= low <= high or arguments.warm_up < 0 or not seconds > 0:
        raise UsageError(
            f"{arguments.warm_up} warm-up runs and {low} to {high} repeats within {seconds:g} s "
            "cannot be measured"
        )
    return Effort(arguments.warm_up, low, high, seconds, arguments.uncertainty, cold=arguments.cold)


def _bundles(
    arguments: argparse.Namespace, grid: Grid, progress: ProgressLine
) -> tuple[list[BundlePath], list[bool]]:
    """Paths of all models, and whether each has random weights."""
    names = parse_words(arguments.model, "--model") if arguments.model else []
    made: list[BundlePath] = [
        synthetic_bundle(name, grid.engines, grid.precisions, progress) for name in names
    ]
    given: list[BundlePath] = list(arguments.bundles)
    if not given and not made:
        given = [None]
    return given + made, [False] * len(given) + [True] * len(made)
