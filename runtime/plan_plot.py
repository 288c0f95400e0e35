"""A drawing of a plan's options: time of each block over the window length, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log2

from .planner import Option

WIDTH, HEIGHT, MARGIN = 420, 260, 48
COLOURS = ("#3366cc", "#dc6a12", "#109648", "#a02ba0", "#c3212e", "#0f8aa3", "#7a5a00", "#555555")


def plan_svg(title: str, plain: Sequence[Option], guided: Sequence[Option]) -> str:
    """Two panels side by side, without and with guidance; chosen options are filled circles."""
    panels = [("without guidance", plain), ("with guidance", guided)]
    body = "".join(_panel(i * WIDTH, name, options) for i, (name, options) in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT + 30}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{WIDTH}" y="18" text-anchor="middle" font-size="14">{escape(title)}: '
        f"milliseconds by window length</text>{body}</svg>\n"
    )


def _panel(left: int, title: str, options: Sequence[Option]) -> str:
    stages = list(dict.fromkeys(option.stage for option in options))
    top = max((1000 * option.block_seconds for option in options), default=1.0)
    last = max((option.window for option in options), default=2)

    def at(option: Option) -> tuple[float, float]:
        x = left + MARGIN + (WIDTH - 2 * MARGIN) * log2(option.window) / max(log2(last), 1)
        y = HEIGHT - MARGIN + 20 - (HEIGHT - 2 * MARGIN) * 1000 * option.block_seconds / top
        return round(x, 1), round(y, 1)

    parts = [
        f'<text x="{left + WIDTH // 2}" y="40" text-anchor="middle">{title}</text>',
        f'<path d="M{left + MARGIN} {MARGIN + 20}V{HEIGHT - MARGIN + 20}H{left + WIDTH - MARGIN}" '
        'fill="none" stroke="#888"/>',
        f'<text x="{left + MARGIN - 4}" y="{MARGIN + 24}" text-anchor="end">{top:.3g}</text>',
        f'<text x="{left + MARGIN - 4}" y="{HEIGHT - MARGIN + 24}" text-anchor="end">0</text>',
    ]
    for window in sorted({option.window for option in options}):
        if window & (window - 1) == 0 or window == last:
            x = at(next(option for option in options if option.window == window))[0]
            below = HEIGHT - MARGIN + 34
            parts.append(f'<text x="{x}" y="{below}" text-anchor="middle">{window}</text>')
    for number, stage in enumerate(stages):
        colour = COLOURS[number % len(COLOURS)]
        own = [option for option in options if option.stage == stage]
        line = " ".join(f"{x},{y}" for x, y in map(at, own))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for option in own:
            x, y = at(option)
            fill, radius = (colour, 4) if option.chosen else ("white", 2)
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{colour}"/>'
            )
        column, row = left + MARGIN + 8 + 62 * (number % 5), HEIGHT + 8 + 14 * (number // 5)
        parts.append(f'<text x="{column}" y="{row}" fill="{colour}">{escape(stage)}</text>')
    return "".join(parts)
