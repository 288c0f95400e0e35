"""Rows as one HTML file with drawings, which needs no network and no script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from math import log10
from pathlib import Path

from ..runtime.atomic import atomic_file
from ..runtime.table import format_number
from .formats import compact, reached, remarks, told_apart
from .row import EQUAL_DB, Row

WIDTH, BAR, STRIP = 640, 18, 46  # of the drawings, in their own units
TRUST_CLASS = {"trusted": "good", "noisy": "soso", "not trustworthy": "bad"}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2230; --soft: #667085; --page: #f6f7f9; --card: #fff;
  --line: #e2e5ea; --bar: #3b6fd4; --dot: #3b6fd4; --good: #16794c; --soso: #93600a;
  --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --page: #11141a;
  --card: #1a1f28; --line: #2b323e; --bar: #6b9bff; --dot: #8fb4ff; --good: #4ac38a;
  --soso: #e0ab4b; --bad: #ff8a7d } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 3rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1.05rem; margin: 0 0 .75rem }
p { margin: .25rem 0; color: var(--soft) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.1rem; margin-top: 1rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 500 } th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--ink); font-size: 12px }
svg .soft { fill: var(--soft) } svg .axis { stroke: var(--line) } svg .bar { fill: var(--bar) }
svg .range { stroke: var(--ink); stroke-width: 1.5 } svg .dot { fill: var(--dot); opacity: .55 }
svg .flagged { fill: var(--bad); opacity: .8 } .good { color: var(--good) }
.soso { color: var(--soso) } .bad { color: var(--bad) } ul { margin: 0; padding-left: 1.2rem }
li { color: var(--soft); font-size: .9rem }
"""


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Write the report; ``flowship bench compare`` reads the rows in it again."""
    with atomic_file(path) as file:
        file.write(report_html(rows).encode())


def report_html(rows: Sequence[Row]) -> str:
    """The whole document."""
    shown = told_apart(rows)
    measured = [row for row in shown if row.status == "ok" and row.median_ms]
    sections = [
        _section("Milliseconds per image", _bars(measured)),
        _section("Every sample, in order of time", _strips(measured)),
        _section("Numbers", f'<div class="scroll">{_table(shown)}</div>'),
        _section("Conditions and remarks", _list(remarks(shown))),
    ]
    # "<" is the only character that could end the script element
    data = json.dumps({"rows": [compact(row) for row in rows]}, allow_nan=False)
    data = data.replace("<", "\\u003c")
    count = f"{len(measured)} of {len(rows)} cases measured"
    models = ", ".join(dict.fromkeys(row.model for row in rows))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>flowship bench: {escape(models)}</title><style>{STYLE}</style></head><body>"
        f"<h1>flowship bench</h1><p>{escape(models)}: {count}. Median of single images; the "
        "thin line is the 95 % interval.</p>"
        + "".join(sections)
        + f'<script type="application/json" id="rows">{data}</script></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _svg(height: float, title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
    )


def _bars(rows: Sequence[Row]) -> str:
    """A bar for each case with the interval of its median."""
    if not rows:
        return ""
    pitch, top = BAR + 26, max(row.median_ms or 0.0 for row in rows)
    parts = []
    for number, row in enumerate(rows):
        y, value = number * pitch, row.median_ms or 0.0
        length = (WIDTH - 90) * value / top
        half = length * min(1.0, row.median_uncertainty or 0.0)
        middle = y + 18 + BAR / 2
        mark = " (extrapolated)" if row.extrapolated_patches else ""
        parts.append(
            f'<text x="0" y="{y + 12}">{escape(row.name)}{mark}</text>'
            f'<rect class="bar" x="0" y="{y + 18}" width="{length:.1f}" height="{BAR}" rx="4"/>'
            f'<path class="range" d="M{length - half:.1f} {middle}H{length + half:.1f}"/>'
            f'<text x="{length + half + 8:.1f}" y="{middle + 4}">{_short(value)}</text>'
        )
    return _svg(len(rows) * pitch, "median milliseconds per image", "".join(parts))


def _strips(rows: Sequence[Row]) -> str:
    """The samples of each case over time, on one logarithmic scale; disturbed ones in red."""
    drawn = [row for row in rows if row.samples_ms]
    if not drawn:
        return ""
    low = log10(min(min(row.samples_ms) for row in drawn))
    high = log10(max(max(row.samples_ms) for row in drawn))
    parts = []
    for number, row in enumerate(drawn):
        y = number * (STRIP + 22)
        parts.append(f'<text x="0" y="{y + 12}">{escape(row.name)}</text>')
        parts.append(f'<path class="axis" d="M0 {y + 18 + STRIP}H{WIDTH}"/>')
        flags = row.sample_flags or ("",) * len(row.samples_ms)
        for i, (sample, flag) in enumerate(zip(row.samples_ms, flags, strict=True)):
            x = 4 + (WIDTH - 8) * (i + 0.5) / len(row.samples_ms)
            share = (log10(sample) - low) / (high - low) if high > low else 0.5
            place = y + 16 + STRIP - (STRIP - 6) * share
            kind = "flagged" if flag else "dot"
            text = f"{_short(sample)} ms" + f", {flag}" * bool(flag)
            parts.append(
                f'<circle class="{kind}" cx="{x:.1f}" cy="{place:.1f}" r="2.6">'
                f"<title>{escape(text)}</title></circle>"
            )
    scale = f"{_short(10**low)} to {_short(10**high)} ms, logarithmic; disturbed samples are red"
    drawing = _svg(len(drawn) * (STRIP + 22) + 4, "samples in milliseconds", "".join(parts))
    return f"{drawing}<p>{scale}</p>"


def _table(rows: Sequence[Row]) -> str:
    header = ["case", "ms", "±", "p90", "p99", "patches/s", "images/min", "cold ms", "load ms"]
    header += ["peak MB", "GB/s", "GFLOP/s", "J", "PSNR dB", "bits/dim", "trust"]
    lines = ["".join(f"<th>{cell}</th>" for cell in header)]
    lines += ["".join(_cells(row)) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cells(row: Row) -> list[str]:
    name = f"<td>{escape(row.name)}</td>"
    if row.status != "ok":
        return [name, f'<td colspan="15">{row.status}: {escape(row.reason or "")}</td>']
    uncertainty = "" if row.median_uncertainty is None else f"{row.median_uncertainty:.1%}"
    change = row.bits_per_dim_change
    cells = [
        _short(row.median_ms),
        uncertainty,
        *map(_short, (row.p90_ms, row.p99_ms, row.patches_per_s, row.images_per_min)),
        *map(_short, (row.ttfi_ms, row.load_ms, row.peak_memory_mb)),
        reached(row.read_gbps, row.limit_read_gbps),
        reached(row.gflops, row.limit_gflops),
        _short(row.joules_per_image),
        "identical" if row.psnr_db == EQUAL_DB else _short(row.psnr_db),
        "" if change is None else format_number(change, "+.5f"),
    ]
    trust = f'<td class="{TRUST_CLASS.get(row.trust or "", "")}">{row.trust or ""}</td>'
    return [name, *(f"<td>{cell}</td>" for cell in cells), trust]


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
