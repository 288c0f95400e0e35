"""Golden affine parameters: what every step graph gave where it was exported, kept in the bundle.

A round trip returns whatever the weights are, and a picture does not tell which block is wrong (a
large model has no golden pictures at all). The parameters (xa, xb) of a few calls of each block
depend on every one of its weights, so they show which artifact computes something else.

One file for an engine and precision, ``golden/<engine>-<precision>.steps.f32``: raw little-endian
float32 [blocks in the order of generation, branches, calls, 2D]. The branches are the plain graph
and the two of the guided one, as far as there are such graphs; a call gives the parameters of the
last patch of its window, so every window length of the menu is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .engines.base import ARStage, Engine
from .errors import BundleError
from .model import Model
from .normal import normals
from .spec import ARBlock

Floats = npt.NDArray[np.float32]

SEED_DOMAIN = 6  # these patches are apart from all other noise
Q_SCALE = (1.0, 1 / 0.7)  # of the guided graph: any value but 1, so that it is seen
WINDOWS = (2, 8)  # beside 1, where a graph takes every length
# Relative rms error of a block's parameters. Measured: at most 4.3e-4 in each of fp16, int8, int4,
# pal8, pal6 and pal4 with the kernels of other CPUs than the one that exported, where sums in
# another order round otherwise (docs/verification.md has the table). Engines that are not here have
# not been measured.
STEPS_LIMIT = {"coreml-interpreter": 1e-3}


@dataclass(frozen=True)
class StepsError:
    """How far a block's artifacts are from what they gave at export.

    Attributes:
        block: which one.
        path: of its artifacts, which are one file or package.
        relative: root of the mean square of the difference, divided by that of the golden values;
            inf where a value is not finite.
    """

    block: ARBlock
    path: str
    relative: float


def golden_steps_path(engine: str, precision: str) -> str:
    """Where the parameters of an engine's artifacts lie in a bundle; ``engine`` as in Artifact."""
    return f"golden/{engine}-{precision}.steps.f32"


def write_golden_steps(bundle: Bundle, engine: Engine, root: Path, made_for: str) -> str:
    """Run every block's artifacts and keep what they give.

    Args:
        root: folder of the bundle that is being written.
        made_for: the engine that the manifest names; the interpreter runs the artifacts of coreml.

    Returns:
        the file's path in the bundle, for the manifest to declare.
    """
    model = Model(bundle, engine)
    blocks = [step_parameters(model, block, made_for) for block in bundle.spec.ar_blocks]
    path = golden_steps_path(made_for, engine.info.precision)
    (root / path).parent.mkdir(exist_ok=True)
    np.stack(blocks).astype("<f4").tofile(root / path)
    return path


def read_golden_steps(bundle: Bundle, made_for: str, precision: str) -> Floats | None:
    """[blocks, rows, 2D] with rows = branches * calls, or None where the bundle has none.

    Raises:
        BundleError: the file is damaged or its size does not fit the model.
    """
    path = golden_steps_path(made_for, precision)
    if path not in bundle.manifest.files:
        return None
    values = np.fromfile(bundle.path(path), "<f4").astype(np.float32)
    blocks, D = len(bundle.spec.ar_blocks), bundle.spec.image.patch_dim
    if not values.size or values.size % (blocks * 2 * D) or not np.isfinite(values).all():
        raise BundleError(
            f"{bundle.root}: {path} has {values.size} values, expected finite ones in {blocks} "
            f"blocks of rows of {2 * D}: export the bundle again"
        )
    steps: Floats = values.reshape(blocks, -1, 2 * D)
    return steps


def golden_steps_errors(model: Model, made_for: str, golden: Floats) -> Iterator[StepsError]:
    """Run every block's artifacts again and compare; ``golden`` is [blocks, rows, 2D].

    Raises:
        BundleError: the golden values are of other calls than those of the artifacts.
        EngineError, BundleError: an artifact cannot be opened or run.
    """
    precision = model.engine.info.precision
    for block, wanted in zip(model.bundle.spec.ar_blocks, golden, strict=True):
        found = step_parameters(model, block, made_for).reshape(-1, golden.shape[-1])
        path = model.bundle.manifest.find(made_for, precision, "step", block.name)[0].path
        if found.shape != wanted.shape:
            raise BundleError(
                f"{path}: its windows give {len(found)} rows of parameters, "
                f"{golden_steps_path(made_for, precision)} has {len(wanted)}: export the bundle "
                "again"
            )
        yield StepsError(block, path, _relative_rms(found, wanted))


def _relative_rms(found: Floats, wanted: Floats) -> float:
    if not np.isfinite(found).all():
        return np.inf
    difference = np.square(found.astype(np.float64) - wanted).mean()
    scale = max(float(np.square(wanted.astype(np.float64)).mean()), 1e-30)
    return float(np.sqrt(difference / scale))


def step_parameters(model: Model, block: ARBlock, made_for: str) -> Floats:
    """[branches, calls, 2D] affine parameters of one block on fixed patches.

    Raises:
        EngineError, BundleError: an artifact cannot be opened or run.
    """
    precision, manifest = model.engine.info.precision, model.bundle.manifest
    kinds = [n for n in (1, 2) if manifest.find(made_for, precision, "step", block.name, n)]
    return np.concatenate([_run(model, block, branches) for branches in kinds])


def _run(model: Model, block: ARBlock, branches: int) -> Floats:
    """[branches, calls, 2D]"""
    image = model.bundle.spec.image
    T, D = image.num_patches, image.patch_dim
    x = normals(block.block, T * D, domain=SEED_DOMAIN).reshape(1, T, D)
    label = 0 if model.bundle.spec.num_classes else None
    opened = model.engine.open(block, branches=branches, scaled_queries=branches == 2)
    with closing(opened) as stage:
        rows = model.class_rows(block, [label], branches)
        stage.begin(model.pos(block), rows, np.array(Q_SCALE[:branches], np.float32))
        return np.stack(list(_calls(stage, x)), axis=1)


def _calls(stage: ARStage, x: Floats) -> Iterator[Floats]:
    """[branches, 2D] of the last patch of each call."""
    position, T = 0, x.shape[1]
    for window in _lengths(stage.windows, T):
        position = min(position, T - window)  # rows that are there already are written again
        xa, xb = stage.step(np.ascontiguousarray(x[:, position : position + window]), position)
        yield np.concatenate([xa[:, 0, -1], xb[:, 0, -1]], axis=-1)
        position += window


def _lengths(menu: Sequence[int], T: int) -> list[int]:
    """1, 1, then every other window length: each graph of the menu runs on rows of another."""
    return [1, 1, *(w for w in menu or WINDOWS if 1 < w <= T)]
