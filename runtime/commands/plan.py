"""``flowship plan``: the sampler's windows for this device, from measured times of calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..atomic import atomic_file, check_file
from ..bundle import Bundle
from ..conditions import describe
from ..convergence import QUICK, WHOLE, measure_floor, measure_profile
from ..engines import EngineOptions, find_engine
from ..engines.base import MAX_THREADS
from ..engines.onnx import OnnxEngine
from ..engines.onnx_packed import make_packed_folder
from ..errors import FlowshipError, UsageError
from ..machine_limits import usable_cores
from ..model import Model
from ..opening import choose_precision, made_for
from ..outputs import check_suffix
from ..plan import FLOOR_FACTOR, PLAN, PlanFile
from ..plan_plot import plan_svg
from ..plan_search import LONG_PICTURE, Candidate, PlanSearch, Settings
from ..plan_settling import Settled, searched, settle
from ..planner import ONE_PATCH
from ..progress import ProgressLine
from ..saved_plans import SavedPlan, make_plans_folder, save_plan
from ..table import format_bytes
from ..timing import sequential_estimate
from ..untimed import UNTIMED_ENGINES, UNTIMED_NOTE
from .options import add_bundle, add_report, print_json, thread_count
from .plan_report import plan_report, print_plan

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser, optional=True)
    parser.add_argument(
        "--save", action="store_true", help="use this plan from now on for this bundle and device"
    )
    parser.add_argument(
        "--pack-weights",
        action="store_true",
        help="engine onnx: also keep the weights packed for this processor in ~/.cache/flowship: "
        "blocks open faster and are mapped instead of copied (four times their size on disk)",
    )
    parser.add_argument(
        "--inexact",
        action="store_true",
        help="also windows whose pictures differ from those of sequential sampling (by default "
        "pictures are compared, and 99.9%% of the 8-bit values must be equal, none off by over 1)",
    )
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the options of every block")
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", default="onnx", help="(%(default)s)")
    group.add_argument("--precision", help="(the bundle's first for the engine)")
    group.add_argument("--device", default="cpu", help="(%(default)s)")
    group.add_argument(
        "--threads", metavar="LIST", help="thread counts to try (1 and the number of cores)"
    )
    group.add_argument(
        "--spinning",
        choices=("no", "yes", "try"),
        default="no",
        help="idle threads wait actively: faster on an idle machine, ruinous on a busy one (no)",
    )
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    progress = ProgressLine(not arguments.quiet)
    if arguments.pack_weights and arguments.engine != "onnx":
        raise UsageError(f"--pack-weights is for the engine onnx, not {arguments.engine}")
    if arguments.engine in UNTIMED_ENGINES:
        raise UsageError(f"there is nothing to plan: {UNTIMED_NOTE}")
    if arguments.plot:
        check_file(arguments.plot)
        check_suffix(arguments.plot, (".svg",), "--plot")
    threads = _thread_counts(arguments.threads)
    if arguments.save:
        make_plans_folder()
    if arguments.pack_weights:
        make_packed_folder()
    with Bundle.open(arguments.bundle) as bundle:
        if bundle.spec.image.num_patches == 1:
            raise UsageError(f"{bundle.manifest.name}: {ONE_PATCH}: there is nothing to plan")
        precision = choose_precision(bundle, arguments.engine, arguments.precision)
        spinning = {"no": (False,), "yes": (True,), "try": (False, True)}[arguments.spinning]
        settings = Settings(
            arguments.engine, precision, arguments.device, threads, spinning, not arguments.inexact
        )
        known = _with_profile(bundle, arguments, precision, progress)
        assert known.profile
        tolerance = known.tolerance(made_for(arguments.engine), precision)
        progress = ProgressLine(not arguments.quiet)
        search = PlanSearch(bundle, known.profile, tolerance, settings, progress.update)
        candidates, busy = searched(search)
        progress.update(1.0, "comparing the plan with sequential sampling")
        settled = settle(bundle, settings, candidates, tolerance, busy)
        progress.clear()
        errors: list[OSError | FlowshipError] = []
        saved = _saved(bundle, settings, settled, errors) if arguments.save else None
        if arguments.pack_weights:
            _try(lambda: _pack(bundle, arguments, precision, progress), errors)
        name = bundle.manifest.name
    conditions = f"{describe(usable_cores())}; {settled.version}"
    if arguments.json:
        print_json(plan_report(name, settled, saved, conditions))
    else:
        print_plan(name, settled, saved, conditions, asked=arguments.save)
    if arguments.plot:
        _try(lambda: _plot(arguments.plot, name, settled.best), errors)
    if errors:  # after what was measured is printed
        raise errors[0]
    return 0


def _saved(
    bundle: Bundle,
    settings: Settings,
    settled: Settled,
    errors: list[OSError | FlowshipError],
) -> Path | None:
    """Where the plan was saved; None where that failed after all."""
    best, (seconds, guided_seconds) = settled.best, settled.seconds
    saved = SavedPlan(
        bundle_sha256=bundle.sha256,
        engine=settings.engine,
        engine_version=settled.version,
        precision=settings.precision,
        device=settings.device,
        threads=best.threads,
        spinning=best.spinning,
        plan=settled.plan,
        seconds=seconds,
        guided_seconds=guided_seconds,
    )
    return _try(lambda: save_plan(saved), errors)


def _try(work: Callable[[], T], errors: list[OSError | FlowshipError]) -> T | None:
    """What fails after minutes of measuring must not lose what was measured."""
    try:
        return work()
    except (OSError, FlowshipError) as error:
        errors.append(error)
        return None


def _plot(path: Path, name: str, best: Candidate) -> None:
    with atomic_file(path) as file:
        file.write(plan_svg(name, best.plain, best.guided).encode())


def _with_profile(
    bundle: Bundle, arguments: argparse.Namespace, precision: str, progress: ProgressLine
) -> PlanFile:
    """The bundle's plan; where it has no profile, with one that is measured here."""
    file = PlanFile.loads(bundle.path(PLAN).read_text("utf-8"))
    if file.profile:
        return file
    own = ProgressLine(not arguments.quiet)  # its time left is not that of what follows
    options = EngineOptions(precision, arguments.device)
    with closing(find_engine(arguments.engine)(bundle, options)) as engine:
        model = Model(bundle, engine)
        extent = QUICK if sequential_estimate(model) > LONG_PICTURE else WHOLE
        only = f" on the first {extent.patches} patches of each block" * bool(extent.patches)
        progress.note(f"the bundle has no convergence profile: measuring it here{only}")
        floor = measure_floor(model)
        profile = measure_profile(
            model,
            {f"{made_for(arguments.engine)} {precision}": floor},
            lambda done: own.update(done, "measuring convergence"),
            extent,
            max(file.plan.tolerance, FLOOR_FACTOR * floor),
        )
    own.clear()
    return replace(file, profile=profile)


def _thread_counts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return tuple(sorted({1, min(usable_cores(), MAX_THREADS)}))
    try:
        return tuple(sorted({thread_count(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--threads: {error}; as in 1,2,4") from error


def _pack(
    bundle: Bundle, arguments: argparse.Namespace, precision: str, progress: ProgressLine
) -> None:
    with closing(OnnxEngine(bundle, EngineOptions(precision, arguments.device))) as engine:
        written = engine.pack_weights()
    where = make_packed_folder()
    progress.note(
        f"packed weights: {format_bytes(written)} written to {where}"
        if written
        else f"packed weights: they were in {where} already"
    )
