"""Latents to patches through all blocks, one block at a time for all pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .guidance import Guidance
from .model import Labels, Model, check_finite, to_block_order
from .plan import Plan
from .sampler import invert_sequential, invert_windowed
from .spec import ARBlock

Floats = npt.NDArray[np.float32]


class Committed(NamedTuple):
    """State after one call of one block.

    Attributes:
        block: the block that runs, and ``number`` its place in the order of generation.
        first, together: the first picture of those that run together, and how many they are.
        patches: patches of these pictures that are final for this block.
    """

    block: ARBlock
    number: int
    first: int
    together: int
    patches: int


class Decoding:
    """A running inversion of N latents.

    Attributes:
        state: [N, T, D] in image order: latents before the first block, patches after the last.
        failed: with ``keep_going``, pictures that became NaN or infinite: number to what was seen.
            They are zero from there on, and the others are made nevertheless.
    """

    def __init__(
        self,
        model: Model,
        z: Floats,
        labels: Labels,
        guidance: Guidance,
        plan: Plan,
        *,
        keep_going: bool = False,
    ) -> None:
        self.state = z.copy()
        self.failed: dict[int, str] = {}
        self._keep_going = keep_going
        self._model, self._labels, self._guidance, self._plan = model, labels, guidance, plan
        self._running: tuple[ARBlock, slice, Floats] | None = None

    def run(self) -> Iterator[Committed]:
        """Go through the blocks; stop iterating (or close) to cancel between two calls.

        Raises:
            NonFiniteError: a block gave NaN or infinity, and ``keep_going`` is off.
        """
        for index, block in enumerate(self._model.bundle.spec.ar_blocks):
            guidance = self._guidance if block.guided else Guidance()
            window = self._plan.window(block.name, guidance.branches == 2)
            size = self._model.together(block, len(self.state), guidance, window)
            for first in range(0, len(self.state), size):
                pictures = slice(first, min(first + size, len(self.state)))
                yield from self._run_block(block, index, pictures, guidance, window)
            if len(self.failed) == len(self.state):
                return

    def _run_block(
        self, block: ARBlock, index: int, pictures: slice, guidance: Guidance, window: int
    ) -> Iterator[Committed]:
        x = to_block_order(self.state[pictures], block)
        self._running = block, pictures, x
        weights = guidance.weights(x.shape[1])
        with self._model.stage(block, self._labels[pictures], guidance) as stage:
            if window == 1:
                calls = invert_sequential(stage, x, guidance, weights)
            else:
                window = max(w for w in stage.windows or (window,) if w <= window)
                pays = self._plan.min_committed.get(block.name, 0.0)
                tolerance = self._plan.tolerance
                calls = invert_windowed(stage, x, guidance, weights, window, tolerance, pays)
            for patches in calls:
                yield Committed(block, index, pictures.start, len(x), patches)
        self._running = None
        if self._keep_going:
            self._leave_out(x, block, pictures.start)
        check_finite(x, block, pictures.start, "generation")
        self.state[pictures] = to_block_order(x, block)

    def _leave_out(self, x: Floats, block: ARBlock, first: int) -> None:
        """Note the pictures of [n, T, D] that are not finite, and make zeros of them."""
        bad = np.argwhere(~np.isfinite(x))
        for i in sorted(set(bad[:, 0].tolist())):
            patch = int(bad[bad[:, 0] == i, 1].min())
            where = f"{block.name} at patch {patch} of {x.shape[1]} (in the block's order)"
            self.failed.setdefault(first + i, f"NaN or infinity in {where}")
            x[i] = 0

    def preview(self) -> Floats:
        """[N, T, D] what there is at this moment, in image order."""
        state: Floats = self.state.copy()
        if self._running:
            block, pictures, x = self._running
            state[pictures] = to_block_order(x, block)
        return state
