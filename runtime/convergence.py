"""The convergence profile of a model: how many patches a call of each window commits.

A property of the model alone, measured once at export by running the sampler on a few seeds; times
are a property of the device and are measured there (timing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from .decoder import Decoding
from .guidance import Guidance
from .model import Model, to_block_order
from .normal import normals
from .plan import DEFAULT_TOLERANCE, Convergence, Plan, Profile
from .sampler import invert_windowed
from .spec import ARBlock, FlowSpec

Floats = npt.NDArray[np.float32]
Tell = Callable[[float], None]

GUIDANCE = 2.0  # of the guided profile; the counts hardly depend on it
SEED_DOMAIN = 4
WINDOWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        seeds: pictures of each kind.
        windows: lengths, besides the whole sequence where ``patches`` is None.
        patches: only the first of each block; None takes all.
    """

    seeds: int = 4
    windows: Sequence[int] = WINDOWS
    patches: int | None = None

    def lengths(self, num_patches: int) -> list[int]:
        """Window lengths worth measuring for T patches."""
        last = num_patches - 1
        whole = {last} if self.patches is None else set()
        return sorted(({w for w in self.windows if w < last} | whole) - {0, 1})

    def prefix(self, x: Floats) -> Floats:
        """The patches [1, P, D] that are measured, of those in a block's order."""
        return x if self.patches is None else np.ascontiguousarray(x[:, : self.patches])


WHOLE = Extent()
# For models whose pictures take long: minutes in place of hours.
QUICK = Extent(seeds=1, windows=(2, 4, 8, 16, 32, 64), patches=128)


def profile_guidance(spec: FlowSpec) -> Guidance:
    """Typical guidance; without classes its branches differ in the attention temperature."""
    return Guidance(GUIDANCE) if spec.num_classes else Guidance(0.5, attn_temp=0.7)


def measure_convergence(
    model: Model,
    tell: Tell = lambda fraction: None,
    extent: Extent = WHOLE,
    tolerance: float = DEFAULT_TOLERANCE,
) -> tuple[Convergence, ...]:
    """Run the sampler with every window on some pictures, with and without guidance.

    Args:
        model: opened with an engine that takes any window, or those of its menu.
        tell: called with the fraction done.
        tolerance: largest change of a patch that counts as none.
    """
    spec = model.bundle.spec
    T, classes, blocks = spec.image.num_patches, spec.num_classes, len(spec.ar_blocks)
    windows, entries = extent.lengths(T), []
    done, total = 0.0, 4 * extent.seeds  # the picture, then all windows of its blocks
    for guidance in (Guidance(), profile_guidance(spec)):
        calls: dict[tuple[str, int], list[float]] = {}
        for seed in range(extent.seeds):
            label = seed % classes if classes else None
            inputs = []
            for fraction, found in _block_inputs(model, seed, label, guidance):
                inputs += [found] if found else []
                tell((done + fraction) / total)
            done += 1
            for block, z in inputs:
                x = extent.prefix(to_block_order(z, block))
                for window in windows:
                    sampling = guidance, window, tolerance
                    count = _count_calls(model, block, x, label, *sampling)
                    calls.setdefault((block.name, window), []).append((x.shape[1] - 1) / count)
                done += 1 / blocks
                tell(done / total)
        entries += [
            Convergence(stage, window, guidance.scale, fmean(found), min(found))
            for (stage, window), found in calls.items()
        ]
    return tuple(entries)


def _block_inputs(
    model: Model, seed: int, label: int | None, guidance: Guidance
) -> Iterator[tuple[float, tuple[ARBlock, Floats] | None]]:
    """Sequential sampling: the fraction done, and each block with the latents [1, T, D] it gets."""
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    noise = normals(seed, T * D, domain=SEED_DOMAIN).reshape(1, T, D)
    decoding = Decoding(model, noise * np.sqrt(model.bundle.variances), [label], guidance, Plan())
    seen, blocks = 0, len(spec.ar_blocks)
    for at in decoding.run():
        fraction = (at.number + at.patches / T) / blocks
        if at.number == seen:  # its first call: the state is still its input
            seen += 1
            yield fraction, (at.block, decoding.state.copy())
        else:
            yield fraction, None


def _count_calls(
    model: Model,
    block: ARBlock,
    z: Floats,
    label: int | None,
    guidance: Guidance,
    window: int,
    tolerance: float,
) -> int:
    """Calls for the patches [1, P, D] in the block's order."""
    x = z.copy()
    weights = guidance.weights(model.bundle.spec.image.num_patches)
    with model.stage(block, [label], guidance) as stage:
        calls = invert_windowed(stage, x, guidance, weights, window, tolerance)
        return sum(1 for _ in calls)


def measure_floor(model: Model) -> float:
    """Rounding noise: largest difference of a patch between a call with W = 1 and a longer one.

    The largest over the blocks, on the first patches of one picture.
    """
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    count = min(T - 1, 16)
    if count < 2:
        return 0.0
    label, worst = (0 if spec.num_classes else None), 0.0
    noise = normals(0, T * D, domain=SEED_DOMAIN).reshape(1, T, D)
    for block in spec.ar_blocks:
        x = to_block_order(noise, block)
        found = []
        for lengths in ([1] * count, [count]):
            with model.stage(block, [label]) as stage:
                position, parts = 0, []
                for length in lengths:
                    window = np.ascontiguousarray(x[:, position : position + length])
                    xa, xb = stage.step(window, position)
                    following = x[:, position + 1 : position + 1 + length]
                    parts.append(following * np.exp(xa[0]) + xb[0])
                    position += length
                found.append(np.concatenate(parts, 1))
        worst = max(worst, float(np.abs(found[0] - found[1]).max()))
    return worst


def measure_profile(
    model: Model,
    floors: dict[str, float],
    tell: Tell = lambda fraction: None,
    extent: Extent = WHOLE,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Profile:
    """measure_convergence() with the words that go into plan.json."""
    info = model.engine.info
    with_what = f"{info.version}, {info.precision}"
    entries = measure_convergence(model, tell, extent, tolerance)
    return Profile(extent.seeds, tolerance, with_what, entries, floors)
