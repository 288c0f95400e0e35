"""The Core ML target: a writer of the vocabulary in MIL, its packages and its precisions."""

from __future__ import annotations

from .target import CoreMLTarget, placement_note

__all__ = ["CoreMLTarget", "placement_note"]
