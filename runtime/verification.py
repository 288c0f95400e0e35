"""Checks of a bundle by running it: hashes, noise, round trips, golden pictures, agreement.

A flow needs no reference for most of this: decode(encode(x)) must return x.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .bundle import Bundle
from .engines import EngineOptions, find_engine
from .engines.base import Engine
from .errors import BundleError, EngineError, MissingExtraError, NonFiniteError
from .extras import is_installed
from .flow import Flow, draw_noise
from .golden_steps import STEPS_LIMIT, golden_steps_errors, read_golden_steps
from .images import max_abs_error, psnr_db, to_uint8
from .model import Model
from .normal import normals
from .opening import default_plan, made_for
from .spot_check import sample_prefixes

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int_]

# Round trip error of images and latents: rounding of each precision, amplified by the blocks.
# int8 and int4: 0.10 and 0.15 measured on the embedded model with ONNX, whose activations are int8
# in them, so that the smallest difference moves some by a whole step.
ROUND_TRIP_LIMIT = {
    "fp32": 1e-3,
    "fp16": 0.25,
    "pal8": 0.25,
    "pal6": 0.25,
    "pal4": 0.25,
    "int8": 0.5,
    "int4": 0.5,
    "mixed": 0.5,
}
# Engines whose activations are float16 whatever the weights are: all their precisions have the
# limits of fp16. With the kernels of other CPUs the interpreter's round trips were at most 3.3e-2
# off, and its golden pictures 3 levels (docs/verification.md has each precision).
HALF_ENGINES = ("coreml-interpreter",)
# Floor of the PSNR between two engines on the same noise (tier L2). int8: 36 dB measured against
# float32 on the worst of 6 embedded pictures with ONNX; fewer bits have none, they are reported.
AGREEMENT_DB = {"fp32": 90.0, "fp16": 50.0, "int8": 30.0, "pal8": 30.0}
# Golden pictures: how far 8-bit values may be off. Another kind of CPU may round a value the other
# way (tier L1); fp16, also where weights are palettes, differs by more.
GOLDEN_LEVELS = {"fp32": 1}
HALF_LEVELS = 8
# Where activations are int8, a last bit moves single pixels by up to 15 levels while pictures stay
# close: noise changed by 1e-6 gave 50.2 dB (int8) and 46.0 dB (int4) on the embedded model.
GOLDEN_DB = {"int8": 42.0, "int4": 38.0, "mixed": 38.0}
NUM_PICTURES = 2
SEED = 20
# Above this many sequential calls whole pictures take minutes: they are made with --full only, and
# without it every block runs its first patches.
QUICK_CALLS = 4096
SPOT_PATCHES = 80


@dataclass(frozen=True)
class Check:
    """One result. ``passed`` is None where nothing could be checked; ``detail`` says why."""

    name: str
    passed: bool | None
    detail: str


def runnable_engines(bundle: Bundle) -> Iterator[tuple[str, str, str | None]]:
    """(engine, precision, why not) of everything in the bundle, on this machine."""
    packages = {"onnx": "onnxruntime", "executorch": "executorch"}
    for engine, precisions in bundle.manifest.precisions.items():
        name = "coreml-interpreter" if engine == "coreml" and sys.platform != "darwin" else engine
        package = packages.get(name, "coremltools" if name == "coreml" else "numpy")
        missing = not is_installed(package)
        for precision in precisions:
            yield name, precision, f"pip install 'flowship[{engine}]'" if missing else None


def verify_bundle(
    bundle: Bundle, *, engine: str | None = None, threads: int | None = None, full: bool = False
) -> Iterator[Check]:
    """Run all checks, the cheap ones first.

    Args:
        engine: only this one; None takes every engine of the bundle that is installed.
        full: make whole pictures however long it takes, instead of the first patches of each
            block of a large model.
    """
    problems = bundle.verify()
    yield Check("files", not problems, "; ".join(problems) or _count_files(bundle))
    yield _check_noise(bundle)
    if problems:
        return
    calls = len(bundle.spec.ar_blocks) * bundle.spec.image.num_patches
    whole = full or calls <= QUICK_CALLS
    decoded: dict[str, tuple[str, Floats]] = {}
    for name, precision, why_not in runnable_engines(bundle):
        if engine is not None and name != engine:
            continue
        label = f"{name} {precision}"
        if precision not in ROUND_TRIP_LIMIT:
            yield Check(label, False, _unknown(precision))
            continue
        if why_not:
            yield Check(label, None, f"not installed: {why_not}")
            continue
        try:
            running = find_engine(name)(
                bundle, EngineOptions(precision, threads=threads, packed=False)
            )
            with closing(running):
                images = yield from _check_engine(bundle, running, whole)
        except MissingExtraError:
            raise
        except (BundleError, EngineError, NonFiniteError) as error:
            yield Check(label, False, str(error))  # the other precisions may be right
            continue
        yield from _check_agreement(decoded, label, precision, images)


def _check_engine(bundle: Bundle, engine: Engine, whole: bool) -> Generator[Check, None, Floats]:
    """All checks of the artifacts of one engine and precision; returns what they decoded."""
    name, precision = engine.info.name, engine.info.precision
    label = f"{name} {precision}"
    flow = Flow(bundle, engine, default_plan(bundle, name, precision))
    yield from _check_steps(flow, label)
    if not whole:
        return (yield from _check_prefixes(flow, label))
    images = yield from _check_round_trips(flow, label)
    yield from _check_golden(flow, name, precision)
    return images


def _unknown(precision: str) -> str:
    return (
        f"the precision {precision[:80]!r} has no limits here, this flowship knows "
        f"{', '.join(ROUND_TRIP_LIMIT)}: update flowship"
    )


def _count_files(bundle: Bundle) -> str:
    return f"{len(bundle.manifest.files)} files have their size and hash"


def _check_noise(bundle: Bundle) -> Check:
    golden, count = bundle.manifest.golden, int(np.prod(bundle.spec.latents[0].shape))
    noise = normals(golden.noise_seed, count).astype("<f4")
    same = hashlib.sha256(noise.tobytes()).hexdigest() == golden.noise_sha256
    return Check(
        "noise", same, "bit-identical" if same else "other bits than where it was exported"
    )


def _labels(flow: Flow) -> list[int | None]:
    classes = flow.spec.num_classes
    return [i % classes if classes else None for i in range(NUM_PICTURES)]


def _check_round_trips(flow: Flow, label: str) -> Generator[Check, None, Floats]:
    """Yields checks and returns the decoded images."""
    labels, var = _labels(flow), flow.bundle.variances
    noise = draw_noise(range(SEED, SEED + NUM_PICTURES), flow.spec)
    images = flow.decode(noise, label=labels)
    z, _ = flow.encode(images, label=labels)
    again = flow.decode(z, input="z", label=labels)
    limit = _round_trip_limit(flow)
    pairs = (("encode(decode(z))", z, noise * np.sqrt(var)), ("decode(encode(x))", again, images))
    for name, found, wanted in pairs:
        error = float(np.abs(found - wanted).max())
        detail = f"max_abs_error {error:.1e}, limit {limit:g}"
        yield Check(f"{label} {name}", error <= limit, detail)
    return images


def _round_trip_limit(flow: Flow) -> float:
    engine, precision = flow.engine.info.name, flow.engine.info.precision
    return ROUND_TRIP_LIMIT["fp16" if engine in HALF_ENGINES else precision]


def _check_prefixes(flow: Flow, label: str) -> Generator[Check, None, Floats]:
    """The round trip of the first patches of every block; returns them, [blocks, P, D]."""
    T = flow.spec.image.num_patches
    count = min(SPOT_PATCHES, T)
    prefixes = list(sample_prefixes(Model(flow.bundle, flow.engine), count, seed=SEED))
    worst = max(prefixes, key=lambda prefix: prefix.error)
    limit = _round_trip_limit(flow)
    detail = (
        f"first {count} of {T} patches of each of {len(prefixes)} blocks: max_abs_error "
        f"{worst.error:.1e} in {worst.block.name}, limit {limit:g} (whole pictures: --full)"
    )
    yield Check(f"{label} encode(decode(z))", worst.error <= limit, detail)
    return np.concatenate([prefix.x for prefix in prefixes])


def _check_steps(flow: Flow, label: str) -> Iterator[Check]:
    """Golden affine parameters, where the bundle has them; says which artifacts are off."""
    engine, precision = flow.engine.info.name, flow.engine.info.precision
    golden = read_golden_steps(flow.bundle, made_for(engine), precision)
    if golden is None or engine not in STEPS_LIMIT:
        return
    limit, model = STEPS_LIMIT[engine], Model(flow.bundle, flow.engine)
    errors = list(golden_steps_errors(model, made_for(engine), golden))
    off = [error for error in errors if not error.relative <= limit]
    worst = max(errors, key=lambda error: error.relative)
    how = f"relative error {worst.relative:.1e}" if worst.relative else "bit-exact"
    detail = f"{len(errors)} blocks, {how}"
    if off:
        words = (f"{error.path} is off by {error.relative:.1e}" for error in off)
        detail = f"{', '.join(words)} of its affine parameters"
    yield Check(f"{label} golden parameters", not off, f"{detail}, limit {limit:g}")


def _check_golden(flow: Flow, engine: str, precision: str) -> Iterator[Check]:
    for golden in flow.bundle.manifest.golden.pictures:
        if (golden.engine, golden.precision) != (made_for(engine), precision):
            continue
        result = flow.generate(seed=golden.seed, label=golden.label, guidance=golden.guidance)
        found = to_uint8(result.images)[0].transpose(1, 2, 0).astype(int)
        with Image.open(flow.bundle.path(golden.path)) as picture:
            wanted = np.atleast_3d(np.asarray(picture)).astype(int)
        name = f"{engine} {precision} golden picture of seed {golden.seed}"
        passed, detail = _compare_golden(found, wanted, engine, precision)
        yield Check(name, passed, detail if passed else f"{detail}; made by {_steps_of(flow)}")


def _steps_of(flow: Flow) -> str:
    """Paths of the artifacts that make pictures, in words."""
    engine, precision = made_for(flow.engine.info.name), flow.engine.info.precision
    found = (a for a in flow.bundle.manifest.artifacts if a.role == "step")
    paths = (a.path for a in found if (a.engine, a.precision) == (engine, precision))
    return ", ".join(dict.fromkeys(paths))


def _compare_golden(found: Levels, wanted: Levels, engine: str, precision: str) -> tuple[bool, str]:
    """Whether 8-bit pictures [H, W, C] are the same as far as the precision promises; in words."""
    off = int(np.abs(found - wanted).max())
    if off == 0:
        return True, "bit-exact"
    if precision in GOLDEN_DB and engine not in HALF_ENGINES:
        floor, levels = GOLDEN_DB[precision], np.float32(127.5)
        psnr = psnr_db((found / levels - 1)[None], (wanted / levels - 1)[None])
        return (
            psnr >= floor,
            f"PSNR {psnr:.1f} dB, limit {floor:g}; 8-bit values off by up to {off}",
        )
    limit = GOLDEN_LEVELS.get(precision, HALF_LEVELS)
    return off <= limit, f"8-bit values differ by up to {off}, limit {limit}"


def _check_agreement(
    decoded: dict[str, tuple[str, Floats]], label: str, precision: str, images: Floats
) -> Iterator[Check]:
    for other, (other_precision, other_images) in decoded.items():
        floor = min(AGREEMENT_DB.get(p, 0.0) for p in (precision, other_precision))
        psnr, error = psnr_db(images, other_images), max_abs_error(images, other_images)
        detail = f"PSNR {psnr:.1f} dB, limit {floor:g}; max_abs_error {error:.1e}"
        yield Check(f"{label} agrees with {other}", psnr >= floor, detail)
    decoded[label] = precision, images
