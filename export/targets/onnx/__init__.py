"""The ONNX target: a writer of the vocabulary, its files and its precisions."""

from __future__ import annotations

from .target import HEAD_UNIT, OnnxTarget, check_heads, check_int8_cache

__all__ = ["HEAD_UNIT", "OnnxTarget", "check_heads", "check_int8_cache"]
