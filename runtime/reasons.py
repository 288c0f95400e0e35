"""Reasons of many cases in few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST_LINES = 5


def wording(text: str) -> str:
    """A reason without its numbers, which are other ones in every case."""
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", text)


def in_few_lines(
    said: Iterable[tuple[str, str | None, Sequence[str]]], most: int = MOST_LINES
) -> list[str]:
    """A line for each case with its reasons; cases with the same wording share one.

    Args:
        said: name, verdict and reasons of each case; without reasons it has no line.
    """
    groups: dict[tuple[str, ...], list[tuple[str, Sequence[str]]]] = {}
    for name, verdict, reasons in said:
        if reasons:
            groups.setdefault((verdict or "", *map(wording, reasons)), []).append((name, reasons))
    lines = []
    for (verdict, *_), cases in groups.items():
        name, reasons = cases[0]
        more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
        alike = any(list(other) != list(reasons) for _, other in cases)
        lines.append(f"{name}{more}{' alike' * alike}: {verdict}: {'; '.join(reasons)}")
    left = sum(len(cases) for cases in list(groups.values())[most:])
    return [*lines[:most], *([f"and {left} more (--json has all)"] if left else [])]
