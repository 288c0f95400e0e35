"""One opened case that makes the same picture again and again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..runtime.engines import ARStage, Engine, EngineOptions, VJPStage, find_engine
from ..runtime.flow import Flow, draw_noise
from ..runtime.guidance import Guidance
from ..runtime.images import unpatchify
from ..runtime.labels import resolve_labels
from ..runtime.model import Model, check_finite, to_block_order
from ..runtime.opening import default_plan
from ..runtime.plan import Plan
from ..runtime.sampler import invert_sequential, invert_windowed
from ..runtime.saved_plans import load_saved_plan
from ..runtime.spec import ARBlock, FlowSpec
from .grid import Case

Floats = npt.NDArray[np.float32]
BundlePath = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Subject:
    """The picture that every case makes.

    Attributes:
        label: name or number of a class, or "none"; None takes 0 where the model has classes.
        patches: the first patches of each block alone; None is the whole picture.
    """

    seed: int = 7
    label: str | int | None = None
    patches: int | None = None

    def label_of(self, spec: FlowSpec) -> int | None:
        """The number of the class that a model makes.

        Raises:
            UsageError: it has no such class.
        """
        if self.label is None:
            return 0 if spec.num_classes else None
        return resolve_labels(self.label, spec, 1)[0]


@dataclass(frozen=True)
class Work:
    """What one run did, by stage name.

    Attributes:
        calls: of the network.
        evaluated: patches in all calls together.
        cached: patches whose keys and values a call reads, in all calls together.
        attended: patches that the evaluated ones look at, themselves among them.
    """

    calls: Mapping[str, int]
    evaluated: Mapping[str, int]
    cached: Mapping[str, int]
    attended: Mapping[str, int]


class Contender(Protocol):
    """Something that makes a picture and can be timed.

    Attributes:
        unrun_seconds: what the last run left out, extrapolated; 0 where it was a whole picture.
    """

    unrun_seconds: float

    def run(self) -> Floats:
        """Make the picture: [1, C, H, W] float32, or the state [1, T, D] of its first patches."""

    def close(self) -> None:
        """Free the engine."""


class FlowContender:
    """A bundle with an engine and a plan."""

    def __init__(self, path: BundlePath, case: Case, subject: Subject) -> None:
        self.flow = Flow.open(
            path,
            engine=case.engine,
            precision=case.precision,
            threads=case.threads,
            device=case.device,
        )
        try:
            self._prepare(case, subject)
        except BaseException:
            self.close()
            raise

    def _prepare(self, case: Case, subject: Subject) -> None:
        """What of the case goes with the opened bundle."""
        self.spinning = self._spinning(case)
        if case.spinning is not None:
            self.flow = self._with_spinning(case.engine, case.spinning)
        flow = self.flow
        if case.window is not None:
            tolerance = default_plan(flow.bundle, case.engine, flow.engine.info.precision).tolerance
            names = [block.name for block in flow.spec.ar_blocks]
            window = min(case.window, flow.spec.image.num_patches)  # the whole sequence
            flow.plan = Plan.uniform(names, window, tolerance)
        self.label = subject.label_of(flow.spec)
        self.guidance = Guidance(case.guidance)
        self.unrun_seconds = 0.0
        T = flow.spec.image.num_patches
        self.patches = subject.patches if subject.patches and subject.patches < T else None
        self._noise = draw_noise([subject.seed], flow.spec)
        self._model = Model(flow.bundle, flow.engine)

    def _spinning(self, case: Case) -> bool:
        """What is asked for, or what Flow.open() took from the saved plan."""
        if case.spinning is not None or case.threads is not None:
            return bool(case.spinning)
        info = self.flow.engine.info
        sha256 = self.flow.bundle.sha256
        saved = load_saved_plan(sha256, case.engine, info.precision, info.device)
        return bool(saved and saved.spinning)

    def _with_spinning(self, engine: str, spinning: bool) -> Flow:
        """The same bundle and plan on an engine whose threads spin or not."""
        info, bundle, plan = self.flow.engine.info, self.flow.bundle, self.flow.plan
        self.flow.engine.close()
        options = EngineOptions(info.precision, info.device, info.threads, spinning)
        return Flow(bundle, find_engine(engine)(bundle, options), plan)

    def run(self) -> Floats:
        if self.patches is not None:
            return self._first_patches()
        return self.flow.decode(self._noise, label=self.label, guidance=self.guidance.scale)

    def count_work(self) -> Work:
        """Run once and count the calls; not to be timed."""
        engine, model = self.flow.engine, self._model
        counting = _CountingEngine(engine)
        self._model = Model(self.flow.bundle, counting)
        try:
            state = self._noise * np.sqrt(self.flow.bundle.variances)
            for block in self.flow.spec.ar_blocks:
                state = self._block(state, block)
        finally:
            self._model = model
        return counting.work

    def _first_patches(self) -> Floats:
        self.unrun_seconds = 0.0
        state = self._noise * np.sqrt(self.flow.bundle.variances)
        for block in self.flow.spec.ar_blocks:
            state = self._block(state, block)
        return state

    def _block(self, state: Floats, block: ARBlock) -> Floats:
        """Invert the first patches of one block; the others stay as they are."""
        guidance = self.guidance if block.guided else Guidance()
        x = np.ascontiguousarray(to_block_order(state, block)[:, : self.patches])
        weights = guidance.weights(state.shape[1])
        plan = self.flow.plan
        window = plan.window(block.name, guidance.branches == 2)
        with self._model.stage(block, [self.label], guidance) as stage:
            if window == 1:
                steps = invert_sequential(stage, x, guidance, weights)
            else:
                window = max(w for w in stage.windows or (window,) if w <= window)
                pays = plan.min_committed.get(block.name, 0.0)
                tolerance = plan.tolerance
                steps = invert_windowed(stage, x, guidance, weights, window, tolerance, pays)
            start = time.perf_counter()
            for _ in steps:
                pass
            # opening the block is done once, whatever the number of patches
            seconds = time.perf_counter() - start
            self.unrun_seconds += seconds * (state.shape[1] - x.shape[1]) / (x.shape[1] - 1)
        check_finite(x, block, 0, "generation")
        whole = to_block_order(state, block)
        whole[:, : x.shape[1]] = x
        return to_block_order(whole, block)

    def close(self) -> None:
        self.flow.close()


class _Counts:
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.evaluated: Counter[str] = Counter()
        self.cached: Counter[str] = Counter()
        self.attended: Counter[str] = Counter()

    def add(self, name: str, position: int, window: int) -> None:
        self.calls[name] += 1
        self.evaluated[name] += window
        self.cached[name] += position + window
        self.attended[name] += window * position + window * (window + 1) // 2


class _CountingStage:
    """A stage that counts its calls."""

    def __init__(self, inner: ARStage, name: str, counts: _Counts) -> None:
        self._inner, self._name, self._counts = inner, name, counts
        self.windows = inner.windows

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._inner.begin(pos, classes, q_scale)

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        self._counts.add(self._name, position, x.shape[1])
        return self._inner.step(x, position)

    def close(self) -> None:
        self._inner.close()


class _CountingEngine:
    """An engine whose stages count."""

    def __init__(self, inner: Engine) -> None:
        self._inner, self.info, self._counts = inner, inner.info, _Counts()

    @property
    def work(self) -> Work:
        counts = self._counts
        return Work(*map(dict, (counts.calls, counts.evaluated, counts.cached, counts.attended)))

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        return self._inner.max_images(branches, scaled_queries)

    def open(
        self,
        stage: ARBlock,
        *,
        num_images: int = 1,
        branches: int = 1,
        scaled_queries: bool = False,
    ) -> ARStage:
        opened = self._inner.open(
            stage, num_images=num_images, branches=branches, scaled_queries=scaled_queries
        )
        return _CountingStage(opened, stage.name, self._counts)

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        return self._inner.open_vjp(stage)

    def close(self) -> None:
        self._inner.close()


def picture_of(state: Floats, contender: FlowContender) -> Floats:
    """What run() gave as images; the first patches are shown in place, the rest is latent."""
    spec = contender.flow.spec.image
    return state if state.ndim == 4 else unpatchify(state, spec)
