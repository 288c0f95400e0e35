"""Size against loss of likelihood: the search's mixtures as an SVG drawing and as table rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import inf

from ...runtime.table import format_bytes, format_interval, format_number
from .search import FrontierPoint

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 360, 84, 48, 52
RESOLUTION = 1e-5  # bits/dim; the interval of 256 pictures is wider for any format
HEADER = ("size", "of float32", "predicted", "measured", "95% interval", "matrices", "")


def frontier_rows(points: Sequence[FrontierPoint], float_bytes: int) -> list[tuple[str, ...]]:
    """A row of HEADER for each point measured, and for predictions 30% apart; bits/dim.

    Args:
        points: the smallest first.
        float_bytes: of the same matrices in float32.
    """
    rows, last = [], inf
    for point in points:
        far = point.predicted <= 0.7 * last and point.predicted >= RESOLUTION
        if far or point.measured:
            rows.append(_row(point, float_bytes))
            last = point.predicted
    return rows


def _row(point: FrontierPoint, float_bytes: int) -> tuple[str, ...]:
    measured = point.measured
    return (
        format_bytes(point.nbytes),
        f"{point.nbytes / float_bytes:.1%}",
        format_number(point.predicted, "+.5f"),
        format_number(measured.mean, "+.5f") if measured else "-",
        format_interval(measured.low, measured.high) if measured else "-",
        ", ".join(f"{count} {name}" for name, count in sorted(point.counts.items())),
        "chosen" if point.chosen else "",
    )


def frontier_svg(title: str, points: Sequence[FrontierPoint], limit: float | None = None) -> str:
    """Bits/dim over bytes: predictions as a line, measurements with intervals, the chosen filled.

    Args:
        points: the smallest first.
        limit: of bits/dim, drawn as a dashed line.
    """
    tops = [p.predicted for p in points] + [p.measured.high for p in points if p.measured]
    lows = [p.measured.low for p in points if p.measured]
    top, low = max([*tops, limit or 0.0, 1e-6]), min([*lows, 0.0])
    last = max((point.nbytes for point in points), default=1)

    def x(nbytes: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 24) * nbytes / last, 1)

    def y(change: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (change - low) / (top - low), 1)

    parts = [
        f'<text x="{WIDTH // 2}" y="22" text-anchor="middle" font-size="14">{escape(title)}: '
        "change of bits/dim by size of the matrices</text>",
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 24}" fill="none" stroke="#888"/>',
        f'<path d="M{LEFT} {y(0)}H{WIDTH - 24}" fill="none" stroke="#ccc"/>',
    ]
    for change in dict.fromkeys((0.0, top)):
        text = format_number(change, ".4f")
        parts.append(f'<text x="{LEFT - 6}" y="{y(change) + 4}" text-anchor="end">{text}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at, words = x(share * last), format_bytes(share * last)
        below = HEIGHT - BOTTOM + 18
        parts.append(f'<text x="{at}" y="{below}" text-anchor="middle">{words}</text>')
    if limit is not None:
        parts.append(
            f'<path d="M{LEFT} {y(limit)}H{WIDTH - 24}" stroke="#c3212e" stroke-dasharray="5 4"/>'
            f'<text x="{WIDTH - 28}" y="{y(limit) - 5}" text-anchor="end" fill="#c3212e">'
            f"limit {limit:g}</text>"
        )
    line = " ".join(f"{x(point.nbytes)},{y(point.predicted)}" for point in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#3366cc"/>')
    for point in points:
        if point.measured:
            at, measured = x(point.nbytes), point.measured
            fill = "#dc6a12" if point.chosen else "white"
            parts.append(
                f'<path d="M{at} {y(measured.low)}V{y(measured.high)}" stroke="#dc6a12"/>'
                f'<circle cx="{at}" cy="{y(measured.mean)}" r="4" fill="{fill}" stroke="#dc6a12"/>'
            )
    legend = HEIGHT - 10
    parts.append(
        f'<text x="{LEFT}" y="{legend}" fill="#3366cc">predicted</text>'
        f'<text x="{LEFT + 76}" y="{legend}" fill="#dc6a12">measured, 95% interval; filled: chosen'
        "</text>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )
