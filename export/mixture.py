"""The mixture of formats that each target gets where a limit of likelihood or of bytes is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.spec import ARBlock
from .checkpoint import Checkpoint
from .quantize.block import Method
from .quantize.data import PictureSet
from .quantize.formats import FORMATS, find_formats
from .quantize.layers import matrix_names
from .quantize.search import SearchLimit, SearchResult, SizeError, search_formats
from .quantize.sensitivity import (
    SENSITIVITY_PICTURES,
    Progress,
    Sensitivity,
    measure_sensitivities,
)
from .targets import Target, TargetOptions

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
            own, float_bytes = names[target.engine], 2 if target.engine == "coreml" else 4

            def tell(fraction: float, words: str, number: int = number) -> None:
                share = (1 - _SENSITIVITY_SHARE) * (number + fraction) / len(targets)
                progress(_SENSITIVITY_SHARE + share, words)

            key = own, float_bytes
            if key not in done:
                others = float_bytes * self._other_weights()
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
        return 4 * self._matrix_weights() * self._checkpoint.config.num_blocks

    def _matrix_weights(self) -> int:
        """In the matrices of a block that may be quantized."""
        c = self._checkpoint.config
        return c.layers_per_block * (4 + 2 * c.expansion) * c.channels**2

    def _other_weights(self) -> int:
        """Those that are never quantized."""
        config = self._checkpoint.config
        return config.num_blocks * (config.block_parameters - self._matrix_weights())


def _of_matrices(limit: SearchLimit, others: int) -> SearchLimit:
    """The limit without the bytes of what is never quantized."""
    return limit if limit.max_bytes is None else SearchLimit(None, limit.max_bytes - others)


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
