"""What is taken of a measured plan: windows and threads that are faster beyond doubt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from .bundle import Bundle
from .conditions import Watch
from .engines import EngineOptions, find_engine
from .flow import Flow
from .plan import Plan
from .plan_search import Candidate, PlanSearch, Settings
from .plan_verdict import PictureTimes, time_flows, time_plan
from .planner import planned_seconds, with_windows
from .trust import disturbed, series_of

AGAIN = "run again when it is quiet"


@dataclass(frozen=True)
class Settled:
    """A candidate with the windows that are taken of it.

    Attributes:
        plan: its windows; sequential where none is surely faster.
        times: whole pictures of the plan that was looked at against sequential ones, where a
            picture is not too long.
        version: of the engine.
        kept: why windows or threads that looked fast are not taken, and what is kept instead.
        busy: what disturbed the times, "" where nothing did.
    """

    best: Candidate
    plan: Plan
    times: tuple[PictureTimes, ...]
    version: str
    kept: tuple[str, ...] = ()
    busy: str = ""

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a picture without and with guidance: median of those timed, else sum of its calls."""
        found = [planned_seconds(self.best.plain), planned_seconds(self.best.guided)]
        for times in self.times:
            chosen = _has_windows(self.best, times.guided)
            found[times.guided] = (times.planned_ms if chosen else times.sequential_ms) / 1000
        return found[0], found[1]


def searched(search: PlanSearch) -> tuple[list[Candidate], str]:
    """All candidates, and what disturbed the machine while they were timed ("" for nothing)."""
    watch, start, tell = Watch(), time.perf_counter(), search.tell

    def told(fraction: float, words: str) -> None:
        watch.sampled()
        tell(fraction, words)

    search.tell = told
    found = list(search.candidates())
    watch.sampled()
    seen = watch.disturbances()
    doubts = disturbed(series_of([1.0] * len(seen), seen, time.perf_counter() - start))
    return found, "; ".join(reason for _, reason in doubts)


def settle(
    bundle: Bundle, settings: Settings, candidates: Sequence[Candidate], tolerance: float, busy: str
) -> Settled:
    """The fastest candidate, as far as whole pictures that took turns prove it.

    Where pictures take too long for that, calls decide, if the machine was quiet meanwhile.

    Args:
        busy: of searched().
    """
    fastest = min(candidates, key=lambda candidate: candidate.seconds)
    usual = _usual(bundle, settings, candidates)
    first = _with_sure_windows(bundle, settings, fastest, tolerance, busy)
    if fastest is usual:
        return first
    second = _with_sure_windows(bundle, settings, usual, tolerance, busy)
    times = _in_turns(bundle, settings, first, second)
    untimed_wins = not times and not busy
    verdicts = {found.verdict for found in times}
    if untimed_wins or ("faster" in verdicts and verdicts <= {"faster", "same"}):
        return first
    why = _why_not(next((t for t in times if t.verdict != "faster"), None), busy)
    what = f"{_settings_words(fastest)} against {_settings_words(usual)}: {why}"
    return replace(second, kept=(*second.kept, f"{what}: {_settings_words(usual)} kept"))


def _usual(bundle: Bundle, settings: Settings, candidates: Sequence[Candidate]) -> Candidate:
    """The one with the engine's own settings; where these were not to be tried, the first."""
    with closing(
        find_engine(settings.engine)(bundle, EngineOptions(settings.precision, settings.device))
    ) as engine:
        own = [c for c in candidates if c.threads == engine.info.threads and not c.spinning]
    return (own or list(candidates))[0]


def _with_sure_windows(
    bundle: Bundle, settings: Settings, best: Candidate, tolerance: float, busy: str
) -> Settled:
    plan, timed = best.plan(tolerance), _timed_kinds(best)
    with closing(find_engine(settings.engine)(bundle, _options(settings, best))) as engine:
        planned, sequential = (Flow(bundle, engine, each) for each in (plan, Plan()))
        times = {kind: time_plan(planned, sequential, guided=kind) for kind in timed}
        version = engine.info.version
    kept = []
    for guided in (False, True):
        found = times.get(guided)
        sure = found.verdict == "faster" if found else not busy
        if _has_windows(best, guided) and not sure:
            best = _without_windows(best, guided)
            words = f"windows {_GUIDANCE[guided]}: {_why_not(found, busy)}"
            kept.append(f"{words}: sequential is kept")
    disturbing = [*dict.fromkeys(reason for t in times.values() for reason in t.reasons)]
    disturbing += [busy] if busy and len(times) < 2 else []
    all_times = tuple(times.values())
    return Settled(
        best, best.plan(tolerance), all_times, version, tuple(kept), "; ".join(disturbing)
    )


_GUIDANCE = ("without guidance", "with guidance")


def _in_turns(
    bundle: Bundle, settings: Settings, first: Settled, second: Settled
) -> list[PictureTimes]:
    """The whole pictures of both, each with its own engine."""
    with ExitStack() as stack:
        flows = []
        for each in (first, second):
            engine = find_engine(settings.engine)(bundle, _options(settings, each.best))
            flows.append(Flow(bundle, stack.enter_context(closing(engine)), each.plan))
        names = _settings_words(first.best), _settings_words(second.best)
        kinds = _timed_kinds(first.best)
        return [time_flows(flows, guided=kind, names=names) for kind in kinds]


def _why_not(found: PictureTimes | None, busy: str) -> str:
    """Why something is not taken."""
    if found is None:
        return (
            f"pictures too long to be timed, and not clear on this busy machine ({busy}; {AGAIN})"
        )
    if found.trust != "trusted":
        return f"not clear on this busy machine ({'; '.join(found.reasons)}; {AGAIN})"
    if found.verdict == "unclear":
        return f"not clear from whole pictures ({AGAIN})"
    return f"{found.verdict} in whole pictures"


def _settings_words(candidate: Candidate) -> str:
    threads = f"{candidate.threads} thread{'s' * (candidate.threads > 1)}"
    return threads + ", spinning" * candidate.spinning


def _options(settings: Settings, best: Candidate) -> EngineOptions:
    return EngineOptions(settings.precision, settings.device, best.threads, best.spinning)


def _timed_kinds(best: Candidate) -> list[bool]:
    return [kind for kind in (False, True) if best.sequential_pictures[kind] is not None]


def _has_windows(best: Candidate, guided: bool) -> bool:
    return any(o.chosen and o.window > 1 for o in (best.guided if guided else best.plain))


def _without_windows(best: Candidate, guided: bool) -> Candidate:
    """The candidate with one kind of picture made sequentially."""
    plain, with_guidance = best.pictures
    sequential = best.sequential_pictures[guided]
    if guided:
        options = with_windows(best.guided, {})
        return replace(best, guided=options, pictures=(plain, sequential))
    options = with_windows(best.plain, {})
    return replace(best, plain=options, pictures=(sequential, with_guidance))
