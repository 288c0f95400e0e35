"""Quantized weights for several targets: what two of them share is found once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...runtime.spec import ARBlock
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights
from ..options import Method
from .block import quantize_block
from .cache_scales import CACHE_PICTURES, cache_scales
from .calibration import BlockInputs, collect_inputs
from .data import PictureSet
from .formats import FORMATS
from .matrix import QuantizedMatrix

Floats = npt.NDArray[np.float32]
MAX_KEPT_WEIGHTS = 256 << 20  # of a block: codes take a byte each
_Key = tuple[int, tuple[tuple[str, str], ...]]


class BlockQuantizer:
    """Quantizes blocks of one checkpoint by one method.

    Args:
        steering: calibration pictures.
        keep: remember the codes of all blocks, a byte a weight and choice of formats; otherwise
            those of one block at a time, and of blocks with more than MAX_KEPT_WEIGHTS weights
            only what is calibrated.
    """

    def __init__(
        self, checkpoint: Checkpoint, method: Method, steering: PictureSet, *, keep: bool
    ) -> None:
        self._checkpoint, self._steering = checkpoint, steering
        self.method: Method = method
        self._keep, self._found = keep, dict[_Key, Mapping[str, QuantizedMatrix]]()
        self._cache_scales = dict[int, Floats]()

    @property
    def words(self) -> str:
        """The pictures that steer."""
        return f"{len(self._steering)} {self._kind}"

    def quantize(
        self, stage: ARBlock, weights: BlockWeights, formats: Mapping[str, str]
    ) -> BlockWeights:
        """The block with the matrices in ``formats`` quantized.

        Args:
            weights: of the checkpoint's block.
            formats: names of formats, by matrix.
        """
        key = stage.block, tuple(sorted(formats.items()))
        if key not in self._found:
            if not self._keep:
                self._found = {k: v for k, v in self._found.items() if k[0] == stage.block}
            own = {name: FORMATS[format] for name, format in formats.items()}
            inputs = self._inputs[stage.block] if self.method == "gptq" else None
            found = quantize_block(weights, own, self.method, inputs).quantized
            few = self._checkpoint.config.block_parameters <= MAX_KEPT_WEIGHTS
            self._found[key] = dict(found) if few else found
        return replace(weights, quantized=self._found[key])

    def with_cache_scales(self, stage: ARBlock, weights: BlockWeights) -> BlockWeights:
        """The block with the scales of an int8 cache, from the first steering pictures."""
        if stage.block not in self._cache_scales:
            found = cache_scales(weights, self._cache_inputs[stage.block])
            self._cache_scales[stage.block] = found
        return replace(weights, cache_scales=self._cache_scales[stage.block])

    @property
    def cache_words(self) -> str:
        """The pictures that say how large keys and values become."""
        return f"{len(self._steering.first(CACHE_PICTURES))} {self._kind}"

    @property
    def _kind(self) -> str:
        """Of pictures; how their likelihood is counted does not matter here."""
        return self._steering.words.partition(";")[0]

    @cached_property
    def _cache_inputs(self) -> dict[int, BlockInputs]:
        return collect_inputs(self._checkpoint, self._steering.first(CACHE_PICTURES))

    @cached_property
    def _inputs(self) -> dict[int, BlockInputs]:
        return collect_inputs(self._checkpoint, self._steering)
