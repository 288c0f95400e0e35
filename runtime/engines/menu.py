"""Windows of engines whose graphs have static shapes: any length is a chain of those there are."""

from __future__ import annotations

from collections.abc import Sequence


def split_window(length: int, menu: Sequence[int]) -> list[int]:
    """Lengths from ``menu`` that add up to ``length``, the longest first; 1 is in the menu."""
    parts: list[int] = []
    for window in sorted(menu, reverse=True):
        parts += [window] * (length // window)
        length %= window
    assert length == 0, f"the menu {menu} has no window of 1"
    return parts
