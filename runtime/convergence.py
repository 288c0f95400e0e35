"""The convergence profile of a model: how many patches a call of each window commits.

A property of the model alone, measured once at export by running the sampler on a few seeds; times
are a property of the device and are measured there (timing.py).
"""

from __future__ import annotations

from collections.abc import Callable
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

GUIDANCE = 2.0  # of the guided profile; the counts hardly depend on it
SEEDS = 4
SEED_DOMAIN = 4
WINDOWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def profile_windows(num_patches: int) -> list[int]:
    """Window lengths worth measuring for T patches."""
    return sorted({w for w in WINDOWS if w < num_patches - 1} | {max(num_patches - 1, 1)} - {1})


def profile_guidance(spec: FlowSpec) -> Guidance:
    """Typical guidance; without classes its branches differ in the attention temperature."""
    return Guidance(GUIDANCE) if spec.num_classes else Guidance(0.5, attn_temp=0.7)


def measure_convergence(
    model: Model, tell: Callable[[float], None] = lambda fraction: None
) -> tuple[Convergence, ...]:
    """Run the sampler with every window on SEEDS pictures, with and without guidance.

    Args:
        model: opened with a float32 engine that takes any window.
        tell: called with the fraction done.
    """
    spec = model.bundle.spec
    T, classes = spec.image.num_patches, spec.num_classes
    windows, entries = profile_windows(T), []
    done, total = 0, 2 * SEEDS * len(spec.ar_blocks)
    for guidance in (Guidance(), profile_guidance(spec)):
        calls: dict[tuple[str, int], list[float]] = {}
        for seed in range(SEEDS):
            label = seed % classes if classes else None
            for block, z in _block_inputs(model, seed, label, guidance):
                for window in windows:
                    found = _count_calls(model, block, z, label, guidance, window)
                    calls.setdefault((block.name, window), []).append((T - 1) / found)
                done += 1
                tell(done / total)
        entries += [
            Convergence(stage, window, guidance.scale, fmean(found), min(found))
            for (stage, window), found in calls.items()
        ]
    return tuple(entries)


def _block_inputs(
    model: Model, seed: int, label: int | None, guidance: Guidance
) -> list[tuple[ARBlock, Floats]]:
    """Every block with the latents [1, T, D] that it gets in sequential sampling."""
    spec = model.bundle.spec
    T, D = spec.latents[0].shape
    noise = normals(seed, T * D, domain=SEED_DOMAIN).reshape(1, T, D)
    decoding = Decoding(
        model, noise * np.sqrt(model.bundle.array("var")), [label], guidance, Plan()
    )
    inputs: list[tuple[ARBlock, Floats]] = []
    for committed in decoding.run():
        if committed.number == len(inputs):  # its first call: the state is still its input
            inputs.append((committed.block, decoding.state.copy()))
    return inputs


def _count_calls(
    model: Model, block: ARBlock, z: Floats, label: int | None, guidance: Guidance, window: int
) -> int:
    x = to_block_order(z, block)
    weights = guidance.weights(x.shape[1])
    with model.stage(block, [label], guidance) as stage:
        calls = invert_windowed(stage, x, guidance, weights, window, DEFAULT_TOLERANCE)
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
    model: Model, floors: dict[str, float], tell: Callable[[float], None] = lambda fraction: None
) -> Profile:
    """measure_convergence() with the words that go into plan.json."""
    info = model.engine.info
    with_what = f"{info.version}, {info.precision}"
    return Profile(SEEDS, DEFAULT_TOLERANCE, with_what, measure_convergence(model, tell), floors)
