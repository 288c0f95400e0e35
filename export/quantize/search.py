"""The smallest mixture of formats whose real loss of likelihood keeps a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...runtime.errors import UsageError
from ...runtime.spec import ARBlock
from ...runtime.table import format_number
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights, TarFlowConfig
from ..options import Method, SearchLimit
from .allocation import Allocation, Choice, Frontier
from .block import quantize_block
from .calibration import collect_inputs
from .data import PictureSet
from .formats import FORMATS
from .layers import matrix_names
from .likelihood import Change, bits_per_dim, paired_change
from .sensitivity import Progress, Sensitivity

FormatsByBlock = Mapping[int, Mapping[str, str]]  # block, matrix -> format; absent is float
MatrixPlace = tuple[int, str]

_ROUNDS = 6  # of bisection: the budget is then right to 1 part in 64


class SizeError(UsageError):
    """No mixture is as small as it was to be.

    Attributes:
        least_bytes: what the smallest one takes.
    """

    def __init__(self, least_bytes: int) -> None:
        super().__init__(f"no mixture of formats takes less than {least_bytes} bytes")
        self.least_bytes = least_bytes


@dataclass(frozen=True)
class FrontierPoint:
    """One mixture.

    Attributes:
        nbytes: of the quantized matrices.
        predicted: increase of bits/dim, the sum of sensitivities.
        measured: on the steering pictures; None where it was not tried.
        counts: matrices in each format; float ones as ``float``.
        chosen: whether the search ended here.
    """

    nbytes: int
    predicted: float
    measured: Change | None
    counts: Mapping[str, int]
    chosen: bool = False


@dataclass(frozen=True)
class SearchResult:
    """What the search chose.

    Attributes:
        formats: of each block, by matrix; matrices that are not named stay float.
        nbytes: of the matrices.
        predicted, steering: increase of bits/dim, as a sum and as measured.
        points: corners of the predicted frontier, and what was measured, the smallest first.
    """

    formats: FormatsByBlock
    nbytes: int
    predicted: float
    steering: Change
    points: tuple[FrontierPoint, ...]


def search_formats(
    checkpoint: Checkpoint,
    steering: PictureSet,
    sensitivities: Sequence[Sensitivity],
    method: Method,
    limit: SearchLimit,
    *,
    float_bytes: int = 4,
    progress: Progress | None = None,
) -> SearchResult:
    """Allocate, quantize, measure, and move the predicted budget until the real limit is met.

    Args:
        sensitivities: of all matrices in all formats that may be used.
        float_bytes: of a weight that stays float, and of a scale: 4, or 2 in Core ML.
        progress: told after each mixture that was measured.

    Raises:
        SizeError: the size cannot be reached.
    """
    trial = _Trial(checkpoint, steering, sensitivities, method, float_bytes, progress)
    if limit.max_bytes is not None:
        if limit.max_bytes < trial.frontier.least_bytes:
            raise SizeError(trial.frontier.least_bytes)
        chosen = trial.frontier.best(limit.max_bytes)
        trial.measure(chosen, 1.0)
    else:
        assert limit.max_increase is not None
        chosen = _bisect(trial, limit.max_increase)
    return trial.result(chosen)


def _bisect(trial: _Trial, limit: float) -> Allocation:
    """The smallest mixture found to keep the limit; all float always does."""
    smallest = trial.frontier.smallest(float("inf"))
    if trial.measure(smallest, 1 / (_ROUNDS + 1)).high <= limit:
        return smallest
    low, high = 0.0, smallest.increase
    chosen = trial.frontier.smallest(low)
    if trial.measure(chosen, 1 / (_ROUNDS + 1)).high > limit:
        trial.measure(trial.all_float, 1.0)
        return trial.all_float
    for number in range(_ROUNDS):
        budget = min(limit, high / 2) if number == 0 else (low + high) / 2
        tried = trial.frontier.smallest(budget)
        if trial.measure(tried, (number + 2) / (_ROUNDS + 1)).high <= limit:
            low, chosen = budget, min(tried, chosen, key=lambda a: a.nbytes)
        else:
            high = budget
    return chosen


class _Trial:
    """Mixtures that were measured, so that none is measured twice."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        steering: PictureSet,
        sensitivities: Sequence[Sensitivity],
        method: Method,
        float_bytes: int,
        progress: Progress | None,
    ) -> None:
        self._checkpoint, self._steering, self._progress = checkpoint, steering, progress
        self._places, options = _options(checkpoint, sensitivities, float_bytes)
        self.frontier = Frontier(options)
        self.all_float = Allocation(tuple(own[0] for own in options))
        self._inputs = collect_inputs(checkpoint, steering) if method == "gptq" else {}
        self._method: Method = method
        self._reference = bits_per_dim(checkpoint, steering, self._trained)
        self._measured: dict[Allocation, Change] = {}

    def measure(self, allocation: Allocation, fraction: float) -> Change:
        """Change of bits/dim on the steering pictures."""
        if allocation not in self._measured:
            formats = self._formats(allocation)

            def source(stage: ARBlock) -> BlockWeights:
                own = {n: FORMATS[f] for n, f in formats.get(stage.block, {}).items()}
                inputs = self._inputs.get(stage.block)
                return quantize_block(self._trained(stage), own, self._method, inputs)

            bits = bits_per_dim(self._checkpoint, self._steering, source)
            self._measured[allocation] = paired_change(bits, self._reference)
        found = self._measured[allocation]
        if self._progress:
            words = f"{allocation.nbytes} bytes: {format_number(found.mean, '+.5f')} bits/dim"
            self._progress(fraction, words)
        return found

    def result(self, chosen: Allocation) -> SearchResult:
        every = dict.fromkeys([*self.frontier.hull(), *self._measured])
        points = [
            FrontierPoint(
                allocation.nbytes,
                allocation.increase,
                self._measured.get(allocation),
                dict(Counter(choice.format or "float" for choice in allocation.choices)),
                allocation == chosen,
            )
            for allocation in every
        ]
        points.sort(key=lambda point: (point.nbytes, point.predicted))
        steering = self._measured[chosen]
        formats = self._formats(chosen)
        return SearchResult(formats, chosen.nbytes, chosen.increase, steering, tuple(points))

    def _trained(self, stage: ARBlock) -> BlockWeights:
        return self._checkpoint.block(stage.block)

    def _formats(self, allocation: Allocation) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        for (block, matrix), choice in zip(self._places, allocation.choices, strict=True):
            if choice.format is not None:
                found.setdefault(block, {})[matrix] = choice.format
        return found


def _options(
    checkpoint: Checkpoint, sensitivities: Sequence[Sensitivity], float_bytes: int
) -> tuple[list[MatrixPlace], list[list[Choice]]]:
    """Each matrix with its choices, float first."""
    shapes = matrix_shapes(checkpoint.config)
    options: dict[MatrixPlace, list[Choice]] = {}
    for found in sensitivities:
        rows, columns = shapes[found.matrix]
        own = options.setdefault(
            (found.block, found.matrix), [Choice(None, float_bytes * rows * columns, 0.0)]
        )
        nbytes = FORMATS[found.format].weight_bytes(rows, columns, float_bytes)
        own.append(Choice(found.format, nbytes, found.increase))
    if not options:
        raise UsageError("no sensitivities: there is nothing to choose from")
    return list(options), list(options.values())


def matrix_shapes(config: TarFlowConfig) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the matrices of a block that may be quantized, by name."""
    c, e = config.channels, config.expansion
    own = {
        "attention.qkv": (3 * c, c),
        "attention.proj": (c, c),
        "mlp.main.0": (e * c, c),
        "mlp.main.2": (c, e * c),
    }
    return {
        name: next(shape for matrix, shape in own.items() if f".{matrix}." in name)
        for name in matrix_names(config.layers_per_block)
    }
