"""Does an artifact compute what the trained model computes? Measured on fresh inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..runtime.engines.base import ARStage, Engine
from ..runtime.errors import ParityError
from ..runtime.manifest import EngineName
from ..runtime.normal import normals
from .reference import LayeredReference

Floats = npt.NDArray[np.float32]

MAX_ABS_ERROR = {"fp32": 1e-4}  # on images


@dataclass(frozen=True)
class BlockLimit:
    """Largest errors of a block's (xa, xb); see BlockError."""

    relative: float
    rms: float


# Against torch with the same (dequantized) weights: what is left is the engine's arithmetic. Each
# is about five times the most that the golden and the embedded models measure on any target.
FLOAT32_LIMIT = BlockLimit(1e-4, 1e-4)  # 2e-6 and 6e-7 measured; scripts are promised 1e-4
HALF_LIMIT = BlockLimit(3e-2, 5e-3)  # 5.6e-3 and 1.0e-3
CODES_LIMIT = BlockLimit(0.25, 5e-2)  # 5.1e-2 and 1.2e-2, of activations that become int8
BLOCK_LIMITS = {"fp32": FLOAT32_LIMIT, "fp16": HALF_LIMIT}
QUANTIZED_LIMITS = {"coreml": HALF_LIMIT, "onnx": CODES_LIMIT, "executorch": CODES_LIMIT}
# Parameters as small as this together hardly move a patch: their rounding is no error of the graph.
LEAST_RMS = 1e-2
# Of images against the trained model, peak 2, worst picture; fp16 itself gives 58 to 83 dB.
IMAGE_PSNR_DB = {"fp16": 50.0}
# XNNPACK also adds up in fp16 where the processor can: 44 dB, where others have 54.
IMAGE_PSNR_DB_FP16_SUMS = {"fp16": 40.0}
# The same of the median picture, also where 8 bits are left: in one picture of 16, sampling doubles
# any rounding error from patch to patch until it can be seen (27 dB, where others have 46). Fewer
# bits have no floor: their loss is reported.
MEDIAN_PSNR_DB = {"fp16": 50.0, "int8": 40.0, "pal8": 40.0}
# Of the vector-Jacobian product, relative. Quantized weights are multiplied in float32 in it.
MAX_GRADIENT_ERROR = {"fp32": 1e-4, "fp16": 2e-2}
QUANTIZED_GRADIENT_ERROR = 1e-4
SPOT_PATCHES = 80  # of every block in a spot check: windows 1, 1, 2, 3, 8, 31, 2, 3, 8, 21
ATTN_TEMP = 0.7  # any value but 1, so that the query scale is seen
SEED_DOMAIN = 3  # noise of checks is apart from the noise of pictures


@dataclass(frozen=True)
class BlockError:
    """What was measured on one block.

    Attributes:
        checked_with: name and version of the engine that ran it.
        max_abs_error: of (xa, xb).
        relative_error: of (xa, xb), the largest |difference| / max(1, |wanted|). They act on the
            patches as exp(xa) and added, so that up to 1 the difference itself counts; nothing is
            clipped.
        rms_error: of (xa, xb) together, root mean square of the differences over that of the
            wanted values: a block is wrong in this where all its values are small.
        gradient_error: of the vector-Jacobian product, relative to its largest value; or None.
    """

    checked_with: str
    max_abs_error: float
    relative_error: float
    rms_error: float
    gradient_error: float | None

    def worst(self, other: BlockError) -> BlockError:
        """Of each number the worse one, of two blocks that the same engine ran."""
        gradients = [g for g in (self.gradient_error, other.gradient_error) if g is not None]
        return BlockError(
            self.checked_with,
            max(self.max_abs_error, other.max_abs_error),
            max(self.relative_error, other.relative_error),
            max(self.rms_error, other.rms_error),
            max(gradients, default=None),
        )


def fresh_noise(seed: int, *shape: int) -> Floats:
    """Standard normal values that no other part of the program draws."""
    return normals(seed, int(np.prod(shape)), domain=SEED_DOMAIN).reshape(shape)


def check_block(
    open_engine: Callable[[], Engine],
    reference: LayeredReference,
    *,
    patches: int,
    at_once: bool,
    denoise: bool,
    seed: int,
) -> BlockError:
    """Run one block's artifacts on fresh patches and compare with torch.

    Args:
        open_engine: called once for the step graphs and once for the gradient, so that the weights
            of the former are let go before the latter needs memory.
        patches: how many of the T patches go through windows of every length.
        at_once: run all T patches in one more call (a chain of calls where windows are static).
        denoise: check the vector-Jacobian graph too.
        seed: of the patches.
    """
    config = reference.config
    x = fresh_noise(seed, 1, config.num_patches + 1, config.patch_dim)
    label = 0 if config.num_classes else None
    errors, gradient = [], None
    with closing(open_engine()) as engine:
        checked_with = f"{engine.info.name}: {engine.info.version}"
        for found, wanted in _step_pairs(engine, reference, x, label, patches, at_once):
            errors.append(_errors(found, wanted))
    if denoise:
        with closing(open_engine()) as engine:
            gradient = _gradient_error(engine, reference, x[0, :-1], label, seed)
    absolute, relative, rms = map(max, zip(*errors, strict=True))
    return BlockError(checked_with, absolute, relative, rms, gradient)


def _errors(found: Floats, wanted: Floats) -> tuple[float, float, float]:
    """(max_abs_error, relative_error, rms_error); inf where a value is not finite."""
    if not np.isfinite(found).all():
        return np.inf, np.inf, np.inf
    exact = wanted.astype(np.float64)
    off = np.abs(found - exact)
    rms = np.sqrt(np.square(off).mean()) / max(LEAST_RMS, np.sqrt(np.square(exact).mean()))
    return float(off.max()), float((off / np.maximum(1, np.abs(exact))).max()), float(rms)


def _step_pairs(
    engine: Engine,
    reference: LayeredReference,
    x: Floats,
    label: int | None,
    count: int,
    at_once: bool,
) -> Iterator[tuple[Floats, Floats]]:
    """(found, wanted) for the plain and the guided graph; [1, W, 2D] each."""
    classes, T = reference.weights.classes, len(reference.weights.pos)
    branches = [-1 if label is None else label, -1]
    q_scale = np.array([1, 1 / ATTN_TEMP], np.float32)
    # Once for all: what comes later in the sequence changes nothing of what is before.
    length = T if at_once else count
    context = reference.context(branches)[:, :length]
    wanted = reference.parameters(np.repeat(x[:, :length], 2, 0), context, q_scale)[:, None]
    with closing(engine.open(reference.block)) as stage:
        stage.begin(reference.weights.pos, classes[branches[:1]][:, None], q_scale[:1])
        found = _run_chain(stage, x, count)
        if at_once and not (stage.windows and count == T):  # where it would be the same chain again
            every = np.concatenate(stage.step(np.ascontiguousarray(x[:, :T]), 0), -1)
            yield every[0], wanted[0]
    yield found[0], wanted[0, :, :count]
    with closing(engine.open(reference.block, branches=2, scaled_queries=True)) as stage:
        stage.begin(reference.weights.pos, classes[branches][:, None], q_scale)
        found = _run_chain(stage, x, count)
    for branch in range(2):
        yield found[branch], wanted[branch, :, :count]


def _run_chain(stage: ARStage, x: Floats, count: int) -> Floats:
    """[branches, 1, count, 2D] parameters of the first patches, through windows of every length."""
    outputs, position = [], 0
    for window in _windows(stage.windows, count):
        xa, xb = stage.step(np.ascontiguousarray(x[:, position : position + window]), position)
        outputs.append(np.concatenate([xa, xb], -1))
        position += window
    return np.concatenate(outputs, 2)


def _windows(menu: Sequence[int], count: int) -> list[int]:
    """1, 1, then every other window in turn until the patches are used up."""
    lengths = [w for w in (menu or (2, 3, 8, 31)) if w > 1] or [1]
    windows, left, turn = [1] * min(2, count), count - min(2, count), 0
    while left:
        windows.append(min(lengths[turn % len(lengths)], left))
        left, turn = left - windows[-1], turn + 1
    return windows


def _gradient_error(
    engine: Engine, reference: LayeredReference, x: Floats, label: int | None, seed: int
) -> float:
    context = reference.context([-1 if label is None else label])[0]
    grads = fresh_noise(seed + 1, 2, *x.shape)
    with closing(engine.open_vjp(reference.block)) as vjp:
        found = vjp.run(x, context, *grads)
    wanted = reference.gradient(x, context, *grads)
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def refuse_if_bad(what: str, target: EngineName, precision: str, measured: BlockError) -> None:
    """Raise ParityError, saying by how much, if a block misses its precision's threshold."""
    block = BLOCK_LIMITS.get(precision, QUANTIZED_LIMITS[target])
    for kind, error, most in (
        ("relative error", measured.relative_error, block.relative),
        ("relative rms error", measured.rms_error, block.rms),
    ):
        if not error <= most:
            raise ParityError(
                f"{what}: {kind} {error:.2e} of (xa, xb) against the trained model, the threshold "
                f"is {most:g}"
            )
    limit = MAX_GRADIENT_ERROR.get(precision, QUANTIZED_GRADIENT_ERROR)
    gradient = measured.gradient_error
    if gradient is not None and not gradient <= limit:
        raise ParityError(
            f"{what}: relative error {gradient:.2e} of the denoising gradient, the threshold is "
            f"{limit:g}"
        )


def refuse_bad_images(
    target: EngineName, precision: str, max_abs: float, psnr: float, median: float
) -> None:
    """The same for decoded images, which are compared with those of the trained model."""
    what = f"{target} {precision}"
    floors = IMAGE_PSNR_DB_FP16_SUMS if target == "executorch" else IMAGE_PSNR_DB
    _refuse_error(f"{what}, decoded images", precision, max_abs)
    _refuse_psnr(f"{what}, decoded images", floors.get(precision), psnr)
    _refuse_psnr(f"{what}, half of the images", MEDIAN_PSNR_DB.get(precision), median)


def _refuse_error(what: str, precision: str, error: float) -> None:
    limit = MAX_ABS_ERROR.get(precision)
    if limit is not None and not error <= limit:
        raise ParityError(
            f"{what}: max_abs_error {error:.2e} against the trained model, the threshold is "
            f"{limit:g}"
        )


def _refuse_psnr(what: str, floor: float | None, psnr: float) -> None:
    if floor is not None and not psnr >= floor:
        raise ParityError(
            f"{what}: PSNR {psnr:.1f} dB against the trained model, the threshold is {floor:g} dB"
        )
