"""The forms of ONNX step graphs, and what those with codes ask of their engine.

``gqa``: GroupQueryAttention and float32 products; quantized matrices become floats when the graph
is loaded. ``gqa-nbits``: the same with MatMulNBits, which multiplies codes. ``core``: standard
operators and static windows.

MatMulNBits quantizes activations too. A difference in the last bit, as between the kernels for one
row and for several, can move one of them to the next of its 255 steps: 0.5 to 1% of the result.
So equal rows must get equal bits whatever the window. ONNX Runtime 1.32 on x86-64: all windows of 2
rows and more agree, but for 3 rows in groups of 128 with AVX-512. Therefore every window has an
even number of rows, the last of which may be thrown away: its cache row is overwritten by the next
step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOATS, CODES, CORE = "gqa", "gqa-nbits", "core"


def run_window(window: int, form: str) -> int:
    """Rows that a call really runs."""
    return window + window % 2 if form == CODES else window


def cache_capacity(num_patches: int, form: str) -> int:
    """Rows of the cache: a last odd window needs one more than there are patches."""
    return num_patches + (form == CODES)


def cache_dtype(precision: str) -> np.dtype[Any]:
    """Type of keys and values."""
    return np.dtype(np.float16 if precision == "fp16" else np.float32)
