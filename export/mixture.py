"""The mixture of formats that each target gets where a limit of likelihood or of bytes is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UsageError
from ..runtime.spec import ARBlock
from ..runtime.table import format_bytes
from .checkpoint import Checkpoint
from .families.tarflow import TarFlowConfig
from .options import Method, SearchLimit, TargetOptions
from .quantize.data import PictureSet
from .quantize.formats import FORMATS, find_formats
from .quantize.layers import matrix_names
from .quantize.search import (
    SearchResult,
    SizeError,
    matrix_shapes,
    search_formats,
)
from .quantize.sensitivity import (
    SENSITIVITY_PICTURES,
    Progress,
    Sensitivity,
    measure_sensitivities,
)
from .targets import Target

# Neighbours of formats that are searched: their points lie between and close to the others', and
# each would take as long again to measure.
_SKIPPED = ("int8_g64", "int8_g32", "int4_g64")
# Of a search: sensitivities, then measuring mixtures.
_SENSITIVITY_SHARE = 0.7


@dataclass(frozen=True)
class Mixture:
    """What was chosen for one target.

    Attributes:
        found: the search's result.
        float_bytes: of its matrices when none is quantized, in float32.
    """

    found: SearchResult
    float_bytes: int


class MixtureSearch:
    """Searches for several targets, with sensitivities measured once for all.

    Args:
        steering: calibrates and measures; it must not judge.
        store: results of earlier, interrupted runs; see measure_sensitivities().
    """

    def __init__(
        self, checkpoint: Checkpoint, steering: PictureSet, method: Method, store: Path
    ) -> None:
        self._checkpoint, self._steering = checkpoint, steering
        self._method: Method = method
        self._store = store

    def run(
        self,
        targets: Sequence[Target],
        options: TargetOptions,
        limit: SearchLimit,
        progress: Progress,
    ) -> dict[str, Mixture]:
        """A mixture for each target, by the name of its engine.

        Args:
            limit: ``max_bytes`` is of all weights of a target.
            progress: told fraction and words.

        Raises:
            SizeError: the size cannot be reached; it counts all weights of the target, not graphs.
        """
        channels = self._checkpoint.config.channels
        names = {t.engine: mixture_formats(t, options, channels) for t in targets}
        every = list(dict.fromkeys(name for own in names.values() for name in own))
        found = self.measure(every, lambda f, words: progress(_SENSITIVITY_SHARE * f, words))
        mixtures = dict[str, Mixture]()
        done = dict[tuple[tuple[str, ...], int], SearchResult]()
        for number, target in enumerate(targets):
            own, float_bytes = names[target.engine], float_bytes_of(target)

            def tell(fraction: float, words: str, number: int = number) -> None:
                share = (1 - _SENSITIVITY_SHARE) * (number + fraction) / len(targets)
                progress(_SENSITIVITY_SHARE + share, words)

            key = own, float_bytes
            if key not in done:
                others = float_bytes * _other_weights(self._checkpoint.config)
                try:
                    done[key] = search_formats(
                        self._checkpoint,
                        self._steering,
                        [s for s in found if s.format in own],
                        self._method,
                        _of_matrices(limit, others),
                        float_bytes=float_bytes,
                        progress=tell,
                    )
                except SizeError as error:
                    raise SizeError(error.least_bytes + others) from error
            mixtures[target.engine] = Mixture(done[key], self._matrix_bytes())
        return mixtures

    def measure(self, formats: Sequence[str], progress: Progress | None) -> list[Sensitivity]:
        """Each matrix in each format by name."""
        return measure_sensitivities(
            self._checkpoint,
            self._steering.first(SENSITIVITY_PICTURES),
            find_formats(formats),
            self._method,
            store=self._store,
            progress=progress,
        )

    def _matrix_bytes(self) -> int:
        config = self._checkpoint.config
        return 4 * _matrix_weights(config) * config.num_blocks


def check_size(
    targets: Sequence[Target], config: TarFlowConfig, options: TargetOptions, max_size: int
) -> None:
    """Refuse, before anything is measured, a size below that of all matrices in the least format.

    Raises:
        UsageError: it cannot be reached.
    """
    for target in targets:
        float_bytes = float_bytes_of(target)
        formats = find_formats(mixture_formats(target, options, config.channels))
        block = sum(
            min(format.weight_bytes(*shape, float_bytes) for format in formats)
            for shape in matrix_shapes(config).values()
        )
        least = config.num_blocks * block + float_bytes * _other_weights(config)
        if max_size < least:
            raise UsageError(
                f"--max-size of {format_bytes(max_size)}: the smallest mixture for "
                f"{target.engine} takes {format_bytes(least)}, and its graphs on top"
            )


def _matrix_weights(config: TarFlowConfig) -> int:
    """In the matrices of a block that may be quantized."""
    return config.layers_per_block * (4 + 2 * config.expansion) * config.channels**2


def _other_weights(config: TarFlowConfig) -> int:
    """Those that are never quantized."""
    return config.num_blocks * (config.block_parameters - _matrix_weights(config))


def _of_matrices(limit: SearchLimit, others: int) -> SearchLimit:
    """The limit without the bytes of what is never quantized."""
    return limit if limit.max_bytes is None else SearchLimit(None, limit.max_bytes - others)


def float_bytes_of(target: Target) -> int:
    """Bytes of a weight that stays float, and of a scale."""
    return 2 if target.engine == "coreml" else 4


def mixture_formats(target: Target, options: TargetOptions, channels: int) -> tuple[str, ...]:
    """Formats that the target's mixture may take.

    Core ML's palettes are for the Neural Engine and its linear codes for the GPU. ExecuTorch has
    whole groups alone.

    Args:
        channels: of the model; the columns of all matrices are multiples of it.
    """
    names = [name for name in target.formats["mixed"] if name not in _SKIPPED]
    if target.engine == "executorch":
        names = [name for name in names if not channels % (FORMATS[name].group_size or 1)]
    if target.engine == "coreml":
        palettes = options.coreml_compute_units in ("all", "cpu-and-ne")
        names = [name for name in names if name.startswith("pal") == palettes]
    return tuple(names)


def uniform_formats(target: Target, precision: str, block: ARBlock) -> Mapping[str, str]:
    """The precision's own format for every matrix of a block; none where it is not quantized."""
    formats = target.formats.get(precision)
    return dict.fromkeys(matrix_names(block.num_layers), formats[0]) if formats else {}
