"""``flowship plan``: the sampler's windows for this device, from measured times of calls."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from ..bundle import Bundle
from ..convergence import measure_floor, measure_profile
from ..engines import EngineOptions, find_engine
from ..engines.onnx import OnnxEngine
from ..engines.onnx_packed import packed_folder
from ..errors import UsageError
from ..flow import Flow, choose_precision, default_plan, made_for
from ..model import Model
from ..plan import PLAN, Plan, PlanFile, Profile
from ..plan_plot import plan_svg
from ..planner import (
    Option,
    choose_windows,
    chosen_windows,
    planned_seconds,
    sequential_seconds,
)
from ..progress import ProgressLine
from ..saved_plans import SavedPlan, save_plan
from ..table import format_bytes, format_table
from ..timing import time_pictures, time_windows
from .options import add_bundle, add_report, print_json

LONG_PICTURE = 2.0  # seconds above which a whole one is not measured


@dataclass(frozen=True)
class _Candidate:
    """One way to run the engine, with its options for every block.

    Attributes:
        pictures: measured seconds of a whole one, without and with guidance; None where that takes
            too long.
    """

    threads: int
    spinning: bool
    plain: list[Option]
    guided: list[Option]
    pictures: tuple[float | None, float | None] = (None, None)

    @property
    def seconds(self) -> float:
        """Of both pictures: measured, else the sum of their calls."""
        planned = planned_seconds(self.plain), planned_seconds(self.guided)
        return sum(m or p for m, p in zip(self.pictures, planned, strict=True))


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
    with Bundle.open(arguments.bundle) as bundle:
        precision = choose_precision(bundle, arguments.engine, arguments.precision)
        profile = _profile(bundle, arguments, precision, progress)
        candidates = list(_candidates(bundle, arguments, precision, profile, progress))
        progress.clear()
        best = min(candidates, key=lambda candidate: candidate.seconds)
        plan = _plan(default_plan(bundle, arguments.engine, precision), best)
        saved, version = None, _version(bundle, arguments, precision)
        if arguments.save:
            saved = save_plan(
                SavedPlan(
                    bundle_sha256=bundle.sha256,
                    engine=arguments.engine,
                    engine_version=version,
                    precision=precision,
                    device=arguments.device,
                    threads=best.threads,
                    spinning=best.spinning,
                    plan=plan,
                    seconds=planned_seconds(best.plain),
                    guided_seconds=planned_seconds(best.guided),
                )
            )
        if arguments.pack_weights:
            _pack(bundle, arguments, precision, progress)
        name = bundle.manifest.name
    if arguments.plot:
        with atomic_file(arguments.plot) as file:
            file.write(plan_svg(name, best.plain, best.guided).encode())
    _report(arguments, name, best, plan, saved)
    return 0


def _profile(
    bundle: Bundle, arguments: argparse.Namespace, precision: str, progress: ProgressLine
) -> Profile:
    profile = PlanFile.loads(bundle.path(PLAN).read_text("utf-8")).profile
    if profile:
        return profile
    progress.note("the bundle has no convergence profile: measuring it on this device")
    options = EngineOptions(precision, arguments.device)
    with closing(find_engine(arguments.engine)(bundle, options)) as engine:
        model = Model(bundle, engine)
        floors = {f"{made_for(arguments.engine)} {precision}": measure_floor(model)}
        return measure_profile(
            model, floors, lambda done: progress.update(done, "measuring convergence")
        )


def _candidates(
    bundle: Bundle,
    arguments: argparse.Namespace,
    precision: str,
    profile: Profile,
    progress: ProgressLine,
) -> Iterator[_Candidate]:
    threads = _thread_counts(arguments.threads)
    spins = {"no": [False], "yes": [True], "try": [False, True]}[arguments.spinning]
    settings = [(t, s) for t in threads for s in spins if t > 1 or not s]
    for number, (count, spinning) in enumerate(settings):
        options = EngineOptions(precision, arguments.device, count, spinning)
        with closing(find_engine(arguments.engine)(bundle, options)) as engine:
            model = Model(bundle, engine)
            found = []
            for guided in (False, True):
                fraction = (number + guided / 2) / len(settings)
                progress.update(fraction, f"timing calls, {count} threads")
                times = _times(model, profile, guided)
                found.append(choose_windows(bundle.spec, profile, times, guided))
            plain, with_guidance = found
            candidate = _Candidate(count, spinning, plain, with_guidance)
            plan = _plan(default_plan(bundle, arguments.engine, precision), candidate)
            yield replace(candidate, pictures=_pictures(Flow(bundle, engine, plan), candidate))


def _pictures(flow: Flow, candidate: _Candidate) -> tuple[float | None, float | None]:
    """Whole pictures show what calls of one block do not: threads of the block before that spin."""
    plain, guided = (
        time_pictures(flow, is_guided) if planned_seconds(options) <= LONG_PICTURE else None
        for is_guided, options in ((False, candidate.plain), (True, candidate.guided))
    )
    return plain, guided


def _times(model: Model, profile: Profile, guided: bool) -> dict[str, dict[int, float]]:
    """Seconds of a call by block and window; blocks of one shape share their times."""
    known: dict[tuple[int, ...], dict[int, float]] = {}
    times = {}
    for block in model.bundle.spec.ar_blocks:
        shape = (block.channels, block.num_layers, block.num_heads)
        if shape not in known:
            with model.stage(block, [None]) as stage:
                menu = set(stage.windows)
            windows = {e.window for e in profile.entries if not menu or e.window in menu}
            known[shape] = time_windows(model, block, sorted({1} | windows), guided)
        times[block.name] = known[shape]
    return times


def _thread_counts(text: str | None) -> list[int]:
    cores = os.cpu_count() or 1
    if text is None:
        return sorted({1, cores})
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise UsageError(f"--threads {text!r} is not a list of thread counts, as in 1,2,4")
    return counts


def _plan(default: Plan, best: _Candidate) -> Plan:
    """Windows of the best options; each must commit what its own cost asks for."""
    needed: dict[str, float] = {}
    for option in best.plain + best.guided:
        if option.chosen and option.window > 1:
            one = next(
                o
                for o in (best.guided if option.guided else best.plain)
                if o.stage == option.stage and o.window == 1
            )
            cost = option.call_seconds / one.call_seconds
            needed[option.stage] = round(min(cost, needed.get(option.stage, cost)), 3)
    plain, guided = chosen_windows(best.plain), chosen_windows(best.guided)
    return Plan(plain, guided, default.tolerance, needed)


def _version(bundle: Bundle, arguments: argparse.Namespace, precision: str) -> str:
    options = EngineOptions(precision, arguments.device)
    with closing(find_engine(arguments.engine)(bundle, options)) as engine:
        return engine.info.version


def _pack(
    bundle: Bundle, arguments: argparse.Namespace, precision: str, progress: ProgressLine
) -> None:
    with closing(OnnxEngine(bundle, EngineOptions(precision, arguments.device))) as engine:
        written = engine.pack_weights()
    where = packed_folder()
    progress.note(
        f"packed weights: {format_bytes(written)} written to {where}"
        if written
        else f"packed weights: they were in {where} already"
    )


def _report(
    arguments: argparse.Namespace, name: str, best: _Candidate, plan: Plan, saved: Path | None
) -> None:
    if arguments.json:
        report: dict[str, Any] = {
            "bundle": name,
            "threads": best.threads,
            "spinning": best.spinning,
            "plan": asdict(plan),
            "seconds": planned_seconds(best.plain),
            "measured_seconds": best.pictures[0],
            "sequential_seconds": sequential_seconds(best.plain),
            "guided_seconds": planned_seconds(best.guided),
            "guided_measured_seconds": best.pictures[1],
            "guided_sequential_seconds": sequential_seconds(best.guided),
            "options": [asdict(option) for option in best.plain + best.guided],
            "saved": str(saved) if saved else None,
        }
        print_json(report)
        return
    titles = ("without guidance", "with guidance")
    for title, options, measured in zip(
        titles, (best.plain, best.guided), best.pictures, strict=True
    ):
        threads = f"{best.threads} thread{'s' * (best.threads > 1)}{', spinning' * best.spinning}"
        print(f"{name}, {title}, {threads}")
        print(_table(options))
        planned, sequential = planned_seconds(options), sequential_seconds(options)
        whole = f", {1000 * measured:.1f} ms measured" if measured else ""
        print(
            f"a picture: {1000 * planned:.1f} ms planned, "
            f"{1000 * sequential:.1f} ms sequential ({sequential / planned:.2f}x){whole}\n"
        )
    if all(window == 1 for window in [*plan.windows.values(), *plan.guided_windows.values()]):
        print("no window pays on this device: sampling stays sequential")
    print(f"saved as {saved}" if saved else "not saved: --save makes generate use it")


def _table(options: Sequence[Option]) -> str:
    """A row for each window; milliseconds of every block, the chosen one with a star."""
    stages = list(dict.fromkeys(option.stage for option in options))
    rows = []
    for window in sorted({option.window for option in options}):
        found = {option.stage: option for option in options if option.window == window}
        calls = "/".join(
            f"{1e6 * t:.0f}" for t in dict.fromkeys(o.call_seconds for o in found.values())
        )
        cells = [
            f"{1000 * o.block_seconds:.2f}{'*' if o.chosen else ' '} ({o.committed:.2f})"
            for o in (found[stage] for stage in stages)
        ]
        rows.append([f"  {window}", calls, *cells])
    return format_table(["  window", "us a call", *stages], rows) + (
        "\n  ms of a block (patches a call commits), * chosen"
    )
