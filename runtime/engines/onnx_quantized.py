"""What quantized graphs ask of the ONNX engine, so that a patch never depends on its neighbours.

MatMulNBits quantizes activations too. A difference in the last bit, as between the kernels for one
row and for several, can move one of them to the next of its 255 steps: 0.5 to 1% of the result.
So equal rows must get equal bits whatever the window. ONNX Runtime 1.32 on x86-64: all windows of 2
rows and more agree, but for 3 rows in groups of 128 with AVX-512. Therefore every window has an
even number of rows, the last of which may be thrown away: its cache row is overwritten by the next
step.
"""

from __future__ import annotations

FLOAT_PRECISIONS = ("fp32", "fp16")


def is_quantized(precision: str) -> bool:
    return precision not in FLOAT_PRECISIONS


def run_window(window: int, precision: str) -> int:
    """Rows that a call really runs."""
    return window + window % 2 if is_quantized(precision) else window


def cache_capacity(num_patches: int, precision: str) -> int:
    """Rows of the cache: a last odd window needs one more than there are patches."""
    return num_patches + is_quantized(precision)
