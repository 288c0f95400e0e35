"""``flowship bench``: how fast, how right and how believable, over a grid of settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..runtime.bundle import Bundle
from ..runtime.commands.options import print_json, refuse_together
from ..runtime.engines.base import MAX_THREADS
from ..runtime.errors import UsageError
from ..runtime.progress import ProgressLine, say
from .against import baseline_jobs, check_same_weights, with_baseline
from .compare import UNCLEAR
from .contender import BundlePath, Subject
from .formats import FORMATS
from .grid import Case, Grid, parse_counts, parse_numbers, parse_switches, parse_words
from .keeping import RowKeeper
from .measure import measure, new_row
from .options import count, count_or_none, duration, share
from .outputs import check_output
from .quiet import wait_quiet
from .reached import limits_of_this_machine
from .row import Row
from .self_check import self_check
from .synthetic_models import check_names, synthetic_bundle
from .turns import Effort, Job

DEFAULTS = Effort(min_seconds=1.5)
EXITS = (
    "Exit status: 0 when every case was measured or skipped with its reason; 1 if one failed; 2 "
    "for misuse, or if nothing can run; 3 if --self-check finds that this machine cannot tell "
    "differences now."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure bundles. Options with LIST take several values, which are crossed: 1,2,4 or 1-4 "
        "or 1..16*2. See also: flowship bench compare, report, predict. Rows are written as they "
        "come: what ends the run leaves them in the files."
    )
    parser.epilog = EXITS
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
    _add_repeats(parser)
    _add_method(parser)
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
    group.add_argument("--label", metavar="NAME", help="class by name or number, or none (0)")
    group.add_argument(
        "--patches",
        type=int,
        metavar="K",
        help="run the first K patches of each block and extrapolate (the whole picture)",
    )


def _add_repeats(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("effort, of each case")
    group.add_argument(
        *("--warm-up", "--warmup"),
        type=count_or_none,
        default=DEFAULTS.warm_up,
        metavar="N",
        help="runs that do not count (%(default)s)",
    )
    for option, value in (
        ("--min-repeats", DEFAULTS.min_repeats),
        ("--max-repeats", DEFAULTS.max_repeats),
    ):
        group.add_argument(option, type=count, default=value, metavar="N", help="(%(default)s)")
    group.add_argument(
        "-r", "--repeats", type=count, metavar="N", help="exactly N, instead of until it is sure"
    )
    for option, seconds in (
        ("--min-seconds", DEFAULTS.min_seconds),
        ("--max-seconds", DEFAULTS.max_seconds),
    ):
        group.add_argument(
            option, type=duration, default=seconds, metavar="S", help="(%(default)s)"
        )
    group.add_argument(
        "--uncertainty",
        type=share,
        default=DEFAULTS.uncertainty,
        metavar="P",
        help="stop when the median is known this well (1%%)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--interleave",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cases take turns, so that a busy moment hits all (yes); no: one in memory at a time",
    )
    group.add_argument(
        "--order-seed",
        type=count_or_none,
        default=DEFAULTS.order_seed,
        metavar="N",
        help="shuffles the turns, anew in every round (%(default)s)",
    )
    group.add_argument(
        "--wait-quiet",
        type=duration,
        metavar="TIME",
        help="wait until other programs use little of the processor, at most so long, as in 30s or "
        "5m; then measure all the same, and say so in every row",
    )
    group.add_argument(
        "--self-check",
        action="store_true",
        help="measure the first case against itself: whether this machine can tell differences "
        "now, and the smallest",
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
    _check(arguments)
    grid, subject, effort = _grid(arguments), _subject(arguments), _effort(arguments)
    progress = ProgressLine(not arguments.quiet)
    template = new_row()
    paths, synthetic = _bundles(arguments, grid, progress)
    cases = list(grid.cases(len(paths)))
    rivals = _rivals(arguments.baseline, paths, subject, grid, template)
    if arguments.wait_quiet:
        waited = wait_quiet(arguments.wait_quiet, progress.update)
        progress.note(str(waited))
        template = replace(template, notes=(*template.notes, str(waited)))
    progress.clear()
    progress = ProgressLine(not arguments.quiet)  # what went before says nothing of what is left
    if arguments.self_check:
        return _self_check(cases[0], paths, subject, effort, arguments, progress)
    stream = not rivals  # whose ratios come at the end
    keeper = RowKeeper(arguments.output, arguments.format, stream=stream, note=progress.note)
    try:
        rows = measure(
            paths,
            cases,
            subject,
            effort,
            synthetic=synthetic,
            interleave=arguments.interleave,
            limits=limits_of_this_machine if arguments.limits else None,
            extra=rivals,
            template=template,
            keeper=keeper,
            progress=progress.update,
        )
    except BaseException:
        progress.clear()
        keeper.end(keeper.rows())
        raise
    progress.clear()
    if all(row.status == "skipped" for row in rows):
        reasons = list(dict.fromkeys(row.reason or "" for row in rows))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UsageError(f"nothing of the grid can run: {reasons[0]}{more}")
    if rivals:
        rows = with_baseline(rows, rivals)
    keeper.end(rows)
    return _status(rows)


def _check(arguments: argparse.Namespace) -> None:
    """What can be refused before anything is opened."""
    for path in arguments.output:
        check_output(path)
    if arguments.baseline and (arguments.patches is not None or not arguments.interleave):
        raise UsageError("--baseline takes turns with whole pictures: no --patches, interleaved")
    if arguments.self_check and (arguments.output or arguments.baseline):
        raise UsageError("--self-check makes no rows: leave out -o and --baseline")
    if arguments.self_check and arguments.format not in ("md", "json"):
        raise UsageError(f"--self-check makes no rows: no --format {arguments.format}")


def _self_check(
    case: Case,
    paths: Sequence[BundlePath],
    subject: Subject,
    effort: Effort,
    arguments: argparse.Namespace,
    progress: ProgressLine,
) -> int:
    try:
        found = self_check(paths[case.bundle], case, subject, effort, progress.update)
    finally:
        progress.clear()
    if arguments.format == "json":
        print_json(found.report())
    else:
        print(found)
    return 0 if found.can_tell else UNCLEAR


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
    with Bundle.open(bundles[0]) as bundle:  # a checkpoint has no names
        number = subject.label_of(bundle.spec)
    subject = replace(subject, label="none" if number is None else number)
    return baseline_jobs(checkpoint, weights, subject, grid.guidances, template)


def _status(rows: list[Row]) -> int:
    """1 where a case failed; skipped ones are in the table."""
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        say(f"flowship bench: {row.name}: {row.reason}")
    return int(bool(failed))


def _grid(arguments: argparse.Namespace) -> Grid:
    given = arguments.precision
    precisions = [None] if given is None else [*parse_words(given, "--precision")]
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
    refuse_together(
        arguments, "repeats", "min_repeats", "max_repeats", "min_seconds", "max_seconds"
    )
    low, high = arguments.min_repeats, arguments.max_repeats
    least, most = arguments.min_seconds, arguments.max_seconds
    if arguments.repeats is not None:
        low, high, least, most = arguments.repeats, arguments.repeats, 0.0, float("inf")
    if low > high or least > most:
        raise UsageError(
            f"{low} to {high} repeats within {least:g} to {most:g} s cannot be measured"
        )
    return Effort(
        *(arguments.warm_up, low, high, most, arguments.uncertainty),
        cold=arguments.cold,
        min_seconds=least,
        order_seed=arguments.order_seed,
    )


def _bundles(
    arguments: argparse.Namespace, grid: Grid, progress: ProgressLine
) -> tuple[list[BundlePath], list[bool]]:
    """Paths of all models, and whether each has random weights."""
    names = [] if arguments.model is None else parse_words(arguments.model, "--model")
    check_names(names)
    made: list[BundlePath] = [
        synthetic_bundle(name, grid.engines, grid.precisions, progress) for name in names
    ]
    given: list[BundlePath] = list(arguments.bundles)
    if not given and not made:
        given = [None]
    return given + made, [False] * len(given) + [True] * len(made)
