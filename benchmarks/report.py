"""Rows as one HTML file with drawings, which needs no network and no script."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from math import log10
from pathlib import Path

from ..runtime.atomic import atomic_file
from ..runtime.table import format_number
from ..runtime.text import printable
from ..runtime.untimed import NOT_A_SPEED
from .formats import compact, reached, remarks, told_apart
from .row import EQUAL_DB, Row

WIDTH, BAR, STRIP = 640, 14, 46  # of the drawings, in their own units
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
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: right; padding: .35rem .4rem; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th { color: var(--soft); font-weight: 500 } th:first-child, td:first-child { text-align: left;
  min-width: 10rem; overflow-wrap: anywhere } td.number { white-space: nowrap }
h3 { font-size: .95rem; margin: 1.25rem 0 .25rem } .head { display: flex; flex-wrap: wrap;
  justify-content: space-between; gap: 0 1rem; margin-top: .6rem }
@media (max-width: 44rem) { table, tbody, tr, td { display: block; width: 100% }
  th { display: none }
  tr { padding: .4rem 0; border-bottom: 1px solid var(--line) } td { border: 0; padding: .1rem 0;
  text-align: left } td[data-name]::before { content: attr(data-name) ": "; color: var(--soft) }
  td:empty { display: none } td:first-child { font-weight: 600 } }
svg { width: 100%; height: auto; display: block } svg .axis { stroke: var(--line) }
svg .bar { fill: var(--bar) }
svg .doubted { opacity: .4 }
svg .range { stroke: var(--ink); stroke-width: 1.5 } svg .dot { fill: var(--dot); opacity: .55 }
svg .flagged { fill: var(--bad); opacity: .8 } .good { color: var(--good) }
.soso { color: var(--soso) } .bad { color: var(--bad) } ul { margin: 0; padding-left: 1.2rem }
li { color: var(--soft); font-size: .9rem }
"""


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Write the report; ``flowship bench compare`` reads the rows in it again."""
    with atomic_file(path) as file:
        file.write(printable(report_html(rows)).encode())


def report_html(rows: Sequence[Row]) -> str:
    """The whole document."""
    shown = told_apart(rows)
    measured = [row for row in shown if row.status == "ok" and row.median_ms and not row.same_as]
    own = [row for row in shown if row.status == "ok" and not row.same_as]
    rest = "".join(_table(own, *table) for table in TABLES[1:]) if own else ""
    sections = [
        _section("Milliseconds per image", _bars(measured)),
        _section("Every sample, in order of time", _strips(measured)),
        _section("Numbers", _table(shown, *TABLES[0]) + rest),
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
        f"<h1>flowship bench</h1><p>{escape(models)}: {count}. Median of single images "
        "with its 95 % interval, which is the thin line; the spread is the distance of the "
        "quartiles. Only trusted times are to be compared.</p>"
        + "".join(sections)
        + f'<script type="application/json" id="rows">{data}</script></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _svg(height: float, title: str, body: str, *, stretched: bool = False) -> str:
    how = ' preserveAspectRatio="none" style="height:1rem"' if stretched else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}"{how} role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
    )


def _head(row: Row) -> str:
    """Name, time and verdict above a drawing: text of the page, which a phone can read."""
    mark = " (extrapolated)" if row.extrapolated_patches else ""
    return (
        f'<div class="head"><span>{escape(row.name)}{mark}</span>'
        f"<span>{_time(row)} {_verdict(row)}</span></div>"
    )


def _time(row: Row) -> str:
    """Such as ``21.1 ms ± 0.5 %, spread 4 %``."""
    if not row.is_speed:
        return NOT_A_SPEED
    unsure = "" if row.median_uncertainty is None else f" ± {100 * row.median_uncertainty:.2g} %"
    spread = "" if row.spread is None else f", spread {row.spread:.0%}"
    return f"{_short(row.median_ms)} ms{unsure}{spread}"


def _verdict(row: Row) -> str:
    word = row.trust or "no verdict"
    return f'<b class="{TRUST_CLASS.get(word, "soso")}">{word}</b>'


def _bars(rows: Sequence[Row]) -> str:
    """A bar for each case with the interval of its median."""
    top, parts = max((row.median_ms or 0.0 for row in rows), default=0.0), []
    for row in rows:
        length = (WIDTH - 40) * (row.median_ms or 0.0) / top
        half = length * min(1.0, row.median_uncertainty or 0.0)
        kind = "bar" if row.trust == "trusted" else "bar doubted"
        body = (
            f'<rect class="{kind}" x="0" y="0" width="{length:.1f}" height="{BAR}"/>'
            f'<path class="range" d="M{length - half:.1f} {BAR / 2}H{length + half:.1f}"/>'
        )
        drawn = _svg(BAR, f"{row.name}: {_short(row.median_ms)} ms", body, stretched=True)
        parts.append(_head(row) + drawn)
    return "".join(parts)


def _strips(rows: Sequence[Row]) -> str:
    """The samples of each case over time, on one logarithmic scale; disturbed ones in red."""
    drawn = [row for row in rows if row.samples_ms]
    if not drawn:
        return ""
    low = log10(min(min(row.samples_ms) for row in drawn))
    high = log10(max(max(row.samples_ms) for row in drawn))
    strips = "".join(_head(row) + _strip(row, low, high) for row in drawn)
    scale = f"{_short(10**low)} to {_short(10**high)} ms, logarithmic; disturbed samples are red"
    return f"{strips}<p>{scale}</p>"


def _strip(row: Row, low: float, high: float) -> str:
    """Samples between 10^low and 10^high ms."""
    parts = [f'<path class="axis" d="M0 {STRIP}H{WIDTH}"/>']
    flags = row.sample_flags or ("",) * len(row.samples_ms)
    for i, (sample, flag) in enumerate(zip(row.samples_ms, flags, strict=True)):
        x = 4 + (WIDTH - 8) * (i + 0.5) / len(row.samples_ms)
        share = (log10(sample) - low) / (high - low) if high > low else 0.5
        place = STRIP - 4 - (STRIP - 8) * share
        kind = "flagged" if flag else "dot"
        text = f"{_short(sample)} ms" + f", {flag}" * bool(flag)
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{place:.1f}" r="2.6">'
            f"<title>{escape(text)}</title></circle>"
        )
    return _svg(STRIP + 1, f"samples of {row.name} in milliseconds", "".join(parts))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _psnr(row: Row) -> str:
    return "identical" if row.psnr_db == EQUAL_DB else _short(row.psnr_db)


def _change(row: Row) -> str:
    change = row.bits_per_dim_change
    return "" if change is None else format_number(change, "+.5f")


Column = tuple[str, Callable[[Row], str]]
_SPEED: list[Column] = [
    ("ms", lambda row: _short(row.median_ms) if row.is_speed else NOT_A_SPEED),
    ("±", lambda row: _percent(row.median_uncertainty)),
    ("spread", lambda row: _percent(row.spread)),
    ("p90 ms", lambda row: _short(row.p90_ms)),
    ("p99 ms", lambda row: _short(row.p99_ms)),
    ("images/min", lambda row: _short(row.images_per_min)),
    ("patches/s", lambda row: _short(row.patches_per_s)),
    ("verdict", lambda row: _verdict(row) if row.is_speed else ""),
]
_COST: list[Column] = [
    ("cold ms", lambda row: _short(row.ttfi_ms)),
    ("load ms", lambda row: _short(row.load_ms)),
    ("peak MB", lambda row: _short(row.peak_memory_mb)),
    ("GB/s", lambda row: reached(row.read_gbps, row.limit_read_gbps)),
    ("GFLOP/s", lambda row: reached(row.gflops, row.limit_gflops)),
    ("J", lambda row: _short(row.joules_per_image)),
]
_RIGHT: list[Column] = [
    ("PSNR dB", _psnr),
    ("bits/dim", _change),
    ("pixels", lambda row: (row.output_sha256 or "")[:12]),
]
TABLES = (("How fast", _SPEED), ("At what cost", _COST), ("How right", _RIGHT))


def _table(rows: Sequence[Row], title: str, columns: Sequence[Column]) -> str:
    """A table narrow enough for a page; on a phone every row is a list of names and values."""
    header = "".join(f"<th>{name}</th>" for name, _ in [("case", _short), *columns])
    lines = [header, *(_line(row, columns) for row in rows)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h3>{title}</h3><table>{body}</table>"


def _line(row: Row, columns: Sequence[Column]) -> str:
    name = f"<td>{escape(row.name)}</td>"
    told = f"{row.status}: {row.reason or ''}" if row.status != "ok" else ""
    told = told or (f"the same case as {row.same_as}" if row.same_as else "")
    if told:
        return f'{name}<td colspan="{len(columns)}">{escape(told)}</td>'
    cells = ((head, make(row)) for head, make in columns)
    return name + "".join(f'<td data-name="{head}">{cell}</td>' for head, cell in cells)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
