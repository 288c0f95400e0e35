"""The forms of ONNX step graphs, and what those with codes ask of their engine.

``gqa``: GroupQueryAttention and float32 products; quantized matrices become floats when the graph
is loaded. ``gqa-nbits``: the same with MatMulNBits, which multiplies codes. ``gqa-nbits-kv8``: keys
and values are cached in int8 too, with fixed scales of each channel. ``core``: standard operators
and static windows.

MatMulNBits quantizes activations too. A difference in the last bit, as between the kernels for one
row and for several, can move one of them, or a value in an int8 cache, to the next of its 255
steps: 0.5 to 1% of the result. So equal rows must get equal bits whatever the window. ONNX Runtime
1.32 on x86-64: all products of 2 rows and more agree, but for 3 rows in groups of 128 with AVX-512;
attention agrees for all windows of 2 patches and more, and with an int8 cache for all. Therefore
the number of rows is made even by a patch that is thrown away: its cache row is overwritten by the
next step.

An int8 cache goes with products of codes only. They are steps of their input, so that a window's
guesses settle to the last bit; with products of floats they settle within the tolerance, which can
move a cached value to its next step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import EngineError
from .onnxruntime_import import version_numbers

FLOATS, CODES, CODES_INT8_CACHE, CORE = "gqa", "gqa-nbits", "gqa-nbits-kv8", "core"
INT8_CACHE_SINCE = (1, 27)


def multiplies_codes(form: str) -> bool:
    return form in (CODES, CODES_INT8_CACHE)


def has_int8_cache(form: str) -> bool:
    return form == CODES_INT8_CACHE


def check_int8_cache_version(version: str) -> None:
    """Refuse a version of ONNX Runtime that cannot run an int8 cache (1.26 loads it, then fails).

    Raises:
        EngineError: it is older.
    """
    if version_numbers(version) < INT8_CACHE_SINCE:
        since = ".".join(map(str, INT8_CACHE_SINCE))
        raise EngineError(
            f"an int8 KV cache needs onnxruntime {since} or newer (Python 3.11 or newer), this is "
            f"{version}: pip install -U 'onnxruntime>={since}', or a bundle that was exported with "
            "--onnx-kv-cache float"
        )


def run_window(window: int, form: str, branches: int) -> int:
    """Patches that a call really runs.

    Args:
        branches: that are heads of one sequence: each patch is so many rows.
    """
    if not multiplies_codes(form):
        return window
    rows = window * branches if has_int8_cache(form) else window
    return window + rows % 2


def cache_capacity(num_patches: int, form: str) -> int:
    """Rows of the cache: a last odd window needs one more than there are patches."""
    return num_patches + multiplies_codes(form)


def cache_dtype(precision: str, form: str = CORE) -> np.dtype[Any]:
    """Type of keys and values."""
    if has_int8_cache(form):
        return np.dtype(np.int8)
    return np.dtype(np.float16 if precision == "fp16" else np.float32)
