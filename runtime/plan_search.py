"""The search for a plan on this device: settings of the engine, windows of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from .bundle import Bundle
from .engines import EngineOptions, find_engine
from .exactness import Difference, SequentialPictures, exact_windows
from .flow import Flow
from .model import Model
from .plan import Plan, Profile
from .planner import (
    Option,
    choose_windows,
    chosen_windows,
    paying_windows,
    planned_seconds,
    sequential_seconds,
    with_windows,
)
from .timing import time_pictures, time_windows

LONG_PICTURE = 2.0  # seconds above which a whole one is not timed
# Pictures of each kind are compared with sequential ones: as many as fit into the time, 1 to 4.
COMPARED_PICTURES, COMPARING_SECONDS = 4, 30.0

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Settings:
    """What is tried.

    Attributes:
        threads, spinning: of the engine's thread pool, in all combinations.
        exact: take only windows whose pictures are those of sequential sampling.
    """

    engine: str
    precision: str
    device: str
    threads: tuple[int, ...]
    spinning: tuple[bool, ...]
    exact: bool = True


@dataclass(frozen=True)
class Candidate:
    """One way to run the engine, with its options for every block.

    Attributes:
        plain, guided: without and with guidance; the chosen ones are marked.
        pictures: measured seconds of a whole one, without and with guidance; None where that takes
            too long.
        sequential_pictures: the same with W = 1 everywhere, in turns with the planned ones.
        differences: what was compared with sequential sampling.
    """

    threads: int
    spinning: bool
    plain: list[Option]
    guided: list[Option]
    pictures: tuple[float | None, float | None] = (None, None)
    sequential_pictures: tuple[float | None, float | None] = (None, None)
    differences: tuple[Difference, ...] = ()

    @property
    def seconds(self) -> float:
        """Of both pictures: measured, else the sum of their calls."""
        planned = planned_seconds(self.plain), planned_seconds(self.guided)
        return sum(m or p for m, p in zip(self.pictures, planned, strict=True))

    def plan(self, tolerance: float) -> Plan:
        """Windows of the chosen options; each must commit what its own cost asks for."""
        needed: dict[str, float] = {}
        for option in self.plain + self.guided:
            if option.chosen and option.window > 1:
                one = next(
                    o
                    for o in (self.guided if option.guided else self.plain)
                    if o.stage == option.stage and o.window == 1
                )
                cost = option.call_seconds / one.call_seconds
                needed[option.stage] = round(min(cost, needed.get(option.stage, cost)), 3)
        plain, guided = chosen_windows(self.plain), chosen_windows(self.guided)
        return Plan(plain, guided, tolerance, needed)


@dataclass
class PlanSearch:
    """Measures candidates one after another.

    Args:
        bundle, profile: how many patches calls commit.
        tolerance: of the plan.
        settings: what is tried.
        tell: called with the fraction done and what is being done.
    """

    bundle: Bundle
    profile: Profile
    tolerance: float
    settings: Settings
    tell: Tell = lambda fraction, words: None
    _compared: dict[bool, SequentialPictures] = field(default_factory=dict)

    def candidates(self) -> Iterator[Candidate]:
        """All settings; with one thread there is nothing to spin for."""
        wanted = self.settings
        pairs = [(t, s) for t in wanted.threads for s in wanted.spinning if t > 1 or not s]
        for number, (threads, spinning) in enumerate(pairs):

            def tell(fraction: float, words: str, number: int = number) -> None:
                self.tell((number + fraction) / len(pairs), words)

            options = EngineOptions(wanted.precision, wanted.device, threads, spinning)
            with closing(find_engine(wanted.engine)(self.bundle, options)) as engine:
                model = Model(self.bundle, engine)
                yield self._measure(model, threads, spinning, tell)

    def _measure(self, model: Model, threads: int, spinning: bool, tell: Tell) -> Candidate:
        found = []
        for guided in (False, True):
            tell(guided * 0.2, f"timing calls, {threads} threads")
            times = self._times(model, guided)
            found.append(choose_windows(self.bundle.spec, self.profile, times, guided))
        candidate = Candidate(threads, spinning, found[0], found[1])
        if self.settings.exact:
            candidate = self._exact(model, candidate, candidate.plan(self.tolerance), tell)
        tell(0.9, f"timing pictures, {threads} threads")
        return _timed(model, candidate, candidate.plan(self.tolerance))

    def _times(self, model: Model, guided: bool) -> dict[str, dict[int, float]]:
        """Seconds of a call by block and window; blocks of one shape share their times."""
        known: dict[tuple[int, ...], dict[int, float]] = {}
        times = {}
        for block in self.bundle.spec.ar_blocks:
            shape = (block.channels, block.num_layers, block.num_heads)
            if shape not in known:
                with model.stage(block, [None]) as stage:
                    menu = set(stage.windows)
                windows = {e.window for e in self.profile.entries if not menu or e.window in menu}
                known[shape] = time_windows(model, block, sorted({1} | windows), guided)
            times[block.name] = known[shape]
        return times

    def _exact(self, model: Model, candidate: Candidate, plan: Plan, tell: Tell) -> Candidate:
        """The candidate without the windows that make other pictures."""
        plain = self._without_inexact(model, candidate.plain, False, plan, tell)
        guided = self._without_inexact(model, candidate.guided, True, plan, tell)
        found = tuple(d for pictures in self._compared.values() for d in pictures.found.values())
        return replace(candidate, plain=plain, guided=guided, differences=found)

    def _without_inexact(
        self, model: Model, options: list[Option], guided: bool, plan: Plan, tell: Tell
    ) -> list[Option]:
        seconds = sequential_seconds(options) + planned_seconds(options)
        count = max(1, min(int(COMPARING_SECONDS / seconds), COMPARED_PICTURES))
        pictures = self._compared.setdefault(guided, SequentialPictures(guided, count))
        start = 0.65 if guided else 0.4

        def compare(windows: Mapping[str, int]) -> Difference:
            return pictures.compare(model, plan, windows, tell_done)

        def tell_done(done: float) -> None:
            tell(start + done / 4, "comparing pictures with sequential ones")

        return with_windows(options, exact_windows(compare, paying_windows(options)))


def _timed(model: Model, candidate: Candidate, plan: Plan) -> Candidate:
    """Whole pictures show what calls of one block do not: caches and threads of the block before.

    Where they say that the windows do not pay together, the kind stays sequential.
    """
    kept, planned, sequential = [], [], []
    for guided, options in enumerate((candidate.plain, candidate.guided)):
        seconds: list[float | None] = [None, None]
        if sequential_seconds(options) <= LONG_PICTURE:
            flows = [Flow(model.bundle, model.engine, p) for p in (plan, Plan())]
            first, second = time_pictures(flows, bool(guided))
            if not any(o.chosen and o.window > 1 for o in options):
                first = second = min(first, second)  # both are sequential sampling
            elif first >= second:
                first, options = second, with_windows(options, {})
            seconds = [first, second]
        kept.append(options)
        planned.append(seconds[0])
        sequential.append(seconds[1])
    return replace(
        candidate,
        plain=kept[0],
        guided=kept[1],
        pictures=(planned[0], planned[1]),
        sequential_pictures=(sequential[0], sequential[1]),
    )
