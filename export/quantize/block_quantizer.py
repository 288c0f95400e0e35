"""Quantized weights for several targets: what two of them share is found once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from ...runtime.spec import ARBlock
from ..checkpoint import Checkpoint
from ..families.tarflow import BlockWeights
from .block import Method, quantize_block
from .calibration import BlockInputs, collect_inputs
from .data import PictureSet
from .formats import FORMATS
from .matrix import QuantizedMatrix

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

    @property
    def words(self) -> str:
        """The pictures that steer."""
        return f"{len(self._steering)} {self._steering.words}"

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

    @cached_property
    def _inputs(self) -> dict[int, BlockInputs]:
        return collect_inputs(self._checkpoint, self._steering)
