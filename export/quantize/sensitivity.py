"""What each matrix costs in bits/dim in each format, measured one at a time and kept in a file.

One matrix changes bits/dim by 1e-4 or less, which the mean over a few pictures does not resolve:
pictures become likelier or less likely by more than that, at first order in the weights. But just
this tells the cost: at a maximum of the likelihood the mean of the squared gradient is the
curvature (Fisher), so that a picture's loss in nats is half of the variance of its changes. On the
embedded model, with 64 pictures, the sum over all matrices in int4_g32 is 0.0026 from variances and
0.0033 from means; all together cost 0.0024 on 256 other pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path

import numpy as np

from ...runtime.errors import BundleError
from ...runtime.hashing import sha256_bytes
from ...runtime.schema import from_json, parse_json
from ...runtime.spec import ARBlock
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights
from ..options import Method
from ..reference import ReferenceBlock
from .calibration import BlockInputs, LayerWalk, block_inputs
from .data import PictureSet
from .formats import Format
from .gptq import gptq
from .layers import MATRICES, matrix_name, matrix_names
from .likelihood import Doubles, bits_per_dim, encode_block, score
from .matrix import QuantizedMatrix
from .rtn import round_to_nearest

Place = tuple[int, str, str]
SENSITIVITY_PICTURES = 64  # enough for the variances below; more take time in proportion
Progress = Callable[[float, str], None]  # 0 to 1, and what was done

_RECIPE = "1"  # a new number where the same settings would give other results
_KEPT_BYTES = 1 << 30  # of float32 blocks in memory at once, beside the one under test


@dataclass(frozen=True)
class Sensitivity:
    """One matrix in one format, all others in float32.

    Attributes:
        block: its number, 0 is next to the image.
        matrix: its name in ``BlockWeights.network``.
        format: its name.
        change: of bits/dim, mean over the pictures.
        increase: of bits/dim, from the variance over the pictures (see above); never below 0.
    """

    block: int
    matrix: str
    format: str
    change: float
    increase: float

    @property
    def place(self) -> Place:
        """What was measured."""
        return self.block, self.matrix, self.format


def measure_sensitivities(
    checkpoint: Checkpoint,
    pictures: PictureSet,
    formats: Sequence[Format],
    method: Method,
    *,
    store: Path | None = None,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Every matrix in every format, on the pictures that steer, which also calibrate.

    Only blocks from the changed one towards the latents are computed again.

    Args:
        store: a file of JSON lines to go on from, and to add each result to as it comes; results
            of other weights, pictures or methods in it are left alone.
        progress: told after each result.

    Raises:
        NonFiniteError: the model gives NaN or infinity.
        BundleError: a line of the store is not one that this function wrote.
    """
    key = _key(checkpoint, pictures, method)
    known = {found.place: found for found in _read(store, key)} if store else {}
    wanted = [
        (stage.block, matrix, format.name)
        for stage in reversed(checkpoint.config.flow_spec().ar_blocks)
        for matrix in matrix_names(checkpoint.config.layers_per_block)
        for format in formats
    ]
    missing = {place for place in wanted if place not in known}
    done = len(wanted) - len(missing)
    for found in _measure(checkpoint, pictures, formats, method, missing) if missing else ():
        known[found.place] = found
        if store:
            _append(store, key, found)
        done += 1
        if progress:
            words = f"block{found.block} {found.matrix.removesuffix('.weight')} {found.format}"
            progress(done / len(wanted), words)
    return [known[place] for place in wanted]


def costliest(
    sensitivities: Iterable[Sensitivity], formats: Mapping[int, Mapping[str, str]]
) -> Sensitivity | None:
    """The matrix that costs most in the formats chosen for blocks and matrices; None if none is."""
    chosen = (s for s in sensitivities if formats.get(s.block, {}).get(s.matrix) == s.format)
    return max(chosen, key=lambda s: s.increase, default=None)


def _measure(
    checkpoint: Checkpoint,
    pictures: PictureSet,
    formats: Sequence[Format],
    method: Method,
    missing: Collection[Place],
) -> Iterator[Sensitivity]:
    """From the image to the latents, so that what enters a block is computed once."""
    reference = bits_per_dim(checkpoint, pictures, lambda stage: checkpoint.block(stage.block))
    stages = list(reversed(checkpoint.config.flow_spec().ar_blocks))
    blocks, var = _Blocks(checkpoint), checkpoint.var()
    x, logdet = pictures.patches, np.zeros(len(pictures))
    for number, stage in enumerate(stages):
        block = blocks.get(stage)
        trained = block.weights
        for name, quantized in _quantize_each(
            trained, block_inputs(checkpoint, stage, x, pictures), formats, method, missing, stage
        ):
            tried = replace(trained, quantized={name: quantized})
            z, change = encode_block(ReferenceBlock(checkpoint, stage, tried), x, pictures.labels)
            total = logdet + change
            for later in stages[number + 1 :]:
                z, change = encode_block(blocks.get(later), z, pictures.labels)
                total += change
            changes = score(z, total, var) - reference
            increase = _half_variance(changes, x[0].size)
            format, mean = quantized.format.name, float(changes.mean())
            yield Sensitivity(stage.block, name, format, mean, increase)
        x, change = encode_block(block, x, pictures.labels)
        logdet = logdet + change


def _half_variance(changes: Doubles, dimensions: int) -> float:
    """Of changes [N] of bits/dim: half of their variance in nats a picture, back in bits/dim."""
    return 0.5 * dimensions * log(2) * float(changes.var())


def _quantize_each(
    weights: BlockWeights,
    inputs: BlockInputs,
    formats: Sequence[Format],
    method: Method,
    missing: Collection[Place],
    stage: ARBlock,
) -> Iterator[tuple[str, QuantizedMatrix]]:
    """Missing matrices of a block, one Hessian in memory at a time."""
    walk = LayerWalk(weights, inputs) if method == "gptq" else None
    for layer in range(stage.num_layers):
        for matrix in MATRICES:
            name = matrix_name(layer, matrix)
            own = [f for f in formats if (stage.block, name, f.name) in missing]
            hessian = walk.hessian(matrix) if walk and own else None
            for format in own:
                weight = weights.network[name]
                if hessian is None:
                    yield name, round_to_nearest(weight, format)
                else:
                    yield name, gptq(weight, hessian, format)
        if walk and layer + 1 < stage.num_layers:
            walk.next_layer()


class _Blocks:
    """Float32 blocks, as many at once as fit into _KEPT_BYTES, and one at least."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._kept = checkpoint, dict[int, ReferenceBlock]()
        self._most = max(1, _KEPT_BYTES // (4 * checkpoint.config.block_parameters))

    def get(self, stage: ARBlock) -> ReferenceBlock:
        if stage.block not in self._kept:
            while len(self._kept) >= self._most:
                self._kept.pop(next(iter(self._kept)))
            self._kept[stage.block] = ReferenceBlock(self._checkpoint, stage)
        return self._kept[stage.block]


# ---- the file -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    key: str
    block: int
    matrix: str
    format: str
    change: float
    increase: float

    def sensitivity(self) -> Sensitivity:
        return Sensitivity(self.block, self.matrix, self.format, self.change, self.increase)


def _key(checkpoint: Checkpoint, pictures: PictureSet, method: Method) -> str:
    """16 digits for everything that results depend on."""
    config = checkpoint.config
    what = f"{_RECIPE} {checkpoint.source.sha256} {config.head_dim} {pictures.sha256} {method}"
    return sha256_bytes(what.encode())[:16]


def _read(store: Path, key: str) -> list[Sensitivity]:
    """Results with this key. A last line that a killed program left unfinished does not count."""
    if not store.exists():
        return []
    text = store.read_text("utf-8")
    found = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            where = f"{store}, line {number}"
            try:
                read = from_json(_Line, parse_json(line, where), where)
            except BundleError as error:
                raise BundleError(f"{error}; remove the file to measure anew") from error
            if read.key == key:
                found.append(read.sensitivity())
    return found


def _append(store: Path, key: str, found: Sensitivity) -> None:
    """Add a line, in place of an unfinished one if there is one."""
    with store.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps({"key": key, **asdict(found)}).encode() + b"\n")
