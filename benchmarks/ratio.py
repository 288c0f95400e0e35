"""How many times faster than the baseline: both in one process, taking turns, on the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from ..runtime.errors import UsageError
from ..runtime.flow import Flow
from ..runtime.guidance import Guidance
from ..runtime.hashing import sha256_of
from ..runtime.images import to_uint8
from ..runtime.normal import normals
from .baseline import Baseline

Floats = npt.NDArray[np.float32]
Run = Callable[[], Floats]
ROUNDS, WARM_UP = 15, 2
BASELINE_THREADS = (1, 2)  # the faster one counts


@dataclass(frozen=True)
class Rival:
    """A way to make the same picture.

    Attributes:
        name: such as ``torch eager, 1 thread``.
        samples_ms: each of them, in the order of the rounds.
        max_abs_error: of its image against that of our engine.
        differing_8bit: share of the 8-bit values that differ.
    """

    name: str
    samples_ms: tuple[float, ...]
    max_abs_error: float
    differing_8bit: float

    @property
    def median_ms(self) -> float:
        return median(self.samples_ms)


@dataclass(frozen=True)
class Ratio:
    """The comparison.

    Attributes:
        guidance: scale.
        ours_ms: samples of our engine.
        rivals: the baseline with each number of threads, and GS-Jacobi with its published schedule.
        baseline: the faster of the sequential ones, which the ratio is against.
        ratio: of the medians.
        quartiles: of the ratios of single rounds: how far the machine lets one trust it.
    """

    guidance: float
    ours_ms: tuple[float, ...]
    rivals: tuple[Rival, ...]
    baseline: Rival
    ratio: float
    quartiles: tuple[float, float]


def measure_ratio(
    flow: Flow,
    checkpoint: Path,
    *,
    guidance: float = 0.0,
    label: int | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    threads: tuple[int, ...] = BASELINE_THREADS,
) -> Ratio:
    """Make one picture with our engine and each rival in turn, ``rounds`` times.

    Args:
        warm_up: rounds before them that do not count.
        threads: numbers of threads for the baseline to try.

    Raises:
        UsageError: the bundle was not exported from this checkpoint.
        MissingExtraError: torch is not installed.
    """
    source = flow.bundle.manifest.source
    if sha256_of(checkpoint) != source.sha256:
        raise UsageError(
            f"{checkpoint.name} is not what {flow.bundle.manifest.name} was exported from "
            f"({source.file}, sha256 {source.sha256[:12]}...): only the same weights compare"
        )
    T, D = flow.spec.latents[0].shape
    noise = normals(seed, T * D).reshape(1, T, D)
    guided = Guidance(guidance)
    runs: dict[str, Run] = {
        "ours": lambda: flow.decode(noise, label=label, guidance=guidance),
    }
    sequential = []
    for count in threads:
        baseline = Baseline(checkpoint, count)
        name = f"{baseline.version} eager, {count} thread{'s' * (count > 1)}"
        sequential.append(name)
        runs[name] = lambda own=baseline: own.sequential(noise, [label], guided)  # type: ignore[misc]
        if count == threads[0]:
            jacobi = f"GS-Jacobi, {name}"
            runs[jacobi] = lambda own=baseline: own.gs_jacobi(noise, [label], guided)  # type: ignore[misc]
    samples, images = take_turns(runs, rounds, warm_up)
    rivals = tuple(_rival(name, samples[name], images) for name in runs if name != "ours")
    best = min((r for r in rivals if r.name in sequential), key=lambda r: r.median_ms)
    ours = samples["ours"]
    each = [theirs / own for theirs, own in zip(best.samples_ms, ours, strict=True)]
    low, high = np.percentile(each, [25, 75])
    return Ratio(
        guidance, ours, rivals, best, best.median_ms / median(ours), (float(low), float(high))
    )


def take_turns(
    runs: dict[str, Run], rounds: int, warm_up: int = WARM_UP
) -> tuple[dict[str, tuple[float, ...]], dict[str, Floats]]:
    """Milliseconds of each run in each round, and its last result; warm-up rounds do not count."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    images = {}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            images[name] = run()
            if turn >= warm_up:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: tuple(found) for name, found in samples.items()}, images


def _rival(name: str, samples: tuple[float, ...], images: dict[str, Floats]) -> Rival:
    ours, theirs = images["ours"], images[name]
    error = float(np.abs(ours - theirs).max())
    differing = float((to_uint8(ours) != to_uint8(theirs)).mean())
    return Rival(name, samples, error, differing)


def ratio_text(found: Ratio) -> str:
    """Lines for the terminal."""
    low, high = found.quartiles
    lines = [
        f"guidance {found.guidance:g}: ours {median(found.ours_ms):.3g} ms, "
        f"{found.ratio:.2f}x as fast as {found.baseline.name} "
        f"(quartiles of {len(found.ours_ms)} rounds {low:.2f} to {high:.2f})"
    ]
    lines += [
        f"  {r.name}: {r.median_ms:.4g} ms, max_abs_error {r.max_abs_error:.2g}, "
        f"{r.differing_8bit:.2%} of the 8-bit values differ"
        for r in found.rivals
    ]
    return "\n".join(lines)
