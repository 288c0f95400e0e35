"""The two ways in which a program writes the rows of a window into its KV cache.

The rows are the same; which one a device runs well differs, see ``CACHE_FORMS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from ...options import ComputeUnits as ComputeUnits

Var = Any  # a coremltools Var; the package has no type hints
CacheWrite = Callable[[Var, Var], Var]  # (cache [R, H, S, d], rows [R, H, W, d]) -> cache
CacheForm = Literal["slice", "blend"]

# A slice whose position is known only at run time is reported to stop the Neural Engine's compiler
# (github.com/apple/coreai-torch/issues/6, github.com/apple/coremltools/issues/2553); the blend has
# fixed shapes only, and costs the GPU a pass over the whole cache. None was run on a device.
CACHE_FORMS: dict[ComputeUnits, CacheForm] = {
    "cpu-and-gpu": "slice",
    "cpu-only": "slice",
    "cpu-and-ne": "blend",
    "all": "blend",  # Core ML may choose the Neural Engine
}


class MakeWrite(Protocol):
    """Makes the update of one function: (mb, inputs by name, window) -> CacheWrite."""

    def __call__(self, mb: Any, inputs: Any, window: int) -> CacheWrite: ...


def slice_write(mb: Any, inputs: Any, window: int) -> CacheWrite:
    """Form ``slice``: moves W rows to ``position`` and leaves the rest alone."""
    position, zero = inputs["position"], np.zeros(1, np.int32)
    begin = mb.concat(values=[zero, zero, position, zero], axis=0)
    stop = mb.add(x=position, y=np.int32(window))
    end = mb.concat(values=[zero, zero, stop, zero], axis=0)
    whole = [True, True, False, True]  # axes of which begin and end are not looked at

    def write(cache: Var, rows: Var) -> Var:
        return mb.slice_update(
            x=cache, update=rows, begin=begin, end=end, begin_mask=whole, end_mask=whole
        )

    return write


def blend_write(mb: Any, inputs: Any, window: int) -> CacheWrite:
    """Form ``blend``: cache * keep + write @ rows, with ``write`` [1, 1, S, W] of zeros and ones.

    Products with 0 and 1 and sums with 0 are exact, so it stores the bits that ``slice`` does.
    """
    one_hot = mb.cast(x=inputs["write"], dtype="fp16", name="write_fp16")
    written = mb.reduce_sum(x=one_hot, axes=[-1], keep_dims=True)
    keep = mb.sub(x=np.float16(1), y=written)

    def write(cache: Var, rows: Var) -> Var:
        return mb.add(x=mb.mul(x=cache, y=keep), y=mb.matmul(x=one_hot, y=rows))

    return write


WRITES: dict[CacheForm, MakeWrite] = {"slice": slice_write, "blend": blend_write}
