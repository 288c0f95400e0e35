"""Rows as markdown, csv, json, jsonl, sqlite and from HTML reports; read back whole from each."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..runtime.atomic import atomic_file
from ..runtime.errors import BundleError, UsageError
from ..runtime.input_paths import check_readable
from ..runtime.progress import say
from ..runtime.reasons import in_few_lines
from ..runtime.schema import from_json, parse_json, to_json
from ..runtime.text import printable
from ..runtime.text_files import read_text
from ..runtime.untimed import NOT_A_SPEED
from .row import EQUAL_DB, Row, summarized

FORMATS = ("md", "csv", "json", "jsonl")
SUFFIXES = {".md": "md", ".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
TABLE = "rows"
_HINTS = get_type_hints(Row)
_COLUMNS = [field.name for field in fields(Row)]
_LISTS = {name for name in _COLUMNS if "tuple" in str(_HINTS[name])}
_MD_DATA = re.compile(r"<!-- flowship-bench\n(.*?)\n-->", re.DOTALL)
_HTML_DATA = re.compile(r'<script type="application/json" id="rows">(.*?)</script>', re.DOTALL)


# -- writing ---------------------------------------------------------------------------------------


def dumps(rows: Sequence[Row], kind: str) -> str:
    """Rows as the text of one of FORMATS."""
    return printable(_WRITERS[kind](rows))


def _json(rows: Sequence[Row]) -> str:
    document = {"rows": [to_json(row) for row in rows]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonl(rows: Sequence[Row]) -> str:
    return "".join(
        json.dumps(to_json(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    )


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(row, name) for name in _COLUMNS] for row in rows)
    return out.getvalue()


def _cell(row: Row, name: str) -> Any:
    """A scalar as it is, None as the empty cell, a list as JSON."""
    value = getattr(row, name)
    if name in _LISTS:
        return printable(json.dumps(value, ensure_ascii=False))
    if isinstance(value, str):
        return printable(value)
    return int(value) if isinstance(value, bool) else value


def table(rows: Sequence[Row]) -> str:
    """A markdown table to paste, with its conditions below."""
    header = ["model", "engine", "precision", "threads", "window", "guidance", "ms/image", "± %"]
    header += ["spread %", "p90", "patches/s", "cold ms", "peak MB", "GB/s", "GFLOP/s", "PSNR dB"]
    lines = [[*header, "trust"], ["---"] * 6 + ["---:"] * 10 + ["---"]]
    rows = told_apart(rows)
    lines += [_summary(row) for row in rows]
    text = "\n".join("| " + " | ".join(_escape(c) for c in cells) + " |" for cells in lines)
    notes = "\n".join(f"- {line}" for line in remarks(rows))
    return f"{text}\n\n{notes}\n"


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows to be read by people: bundles of one name get the beginning of their hash."""
    hashes: dict[str, set[str]] = {}
    for row in rows:
        if row.model_sha256:
            hashes.setdefault(row.model, set()).add(row.model_sha256)
    several = {name for name, found in hashes.items() if len(found) > 1}
    return [
        replace(row, model=f"{row.model} ({row.model_sha256[:8]})")
        if row.model in several and row.model_sha256
        else row
        for row in rows
    ]


def _markdown(rows: Sequence[Row]) -> str:
    """The table, and all fields in a comment that no page shows."""
    lines = (json.dumps(compact(row), ensure_ascii=False, allow_nan=False) for row in rows)
    data = "\n".join(lines).replace("--", "\\u002d\\u002d")  # would end the comment
    return f"{table(rows)}\n<!-- flowship-bench\n{data}\n-->\n"


def compact(row: Row) -> dict[str, Any]:
    """A row as JSON without what is not known."""
    return {name: value for name, value in to_json(row).items() if value not in (None, [])}


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _summary(row: Row) -> list[str]:
    threads = _number(row.threads) + ", spinning" * bool(row.spinning)
    settings = [row.model, row.engine, row.precision or "", threads]
    settings += [row.window or "", f"{row.guidance:g}"]
    if row.status != "ok":
        return [*settings, *[""] * 10, row.status]
    if row.same_as:
        return [*settings, *[""] * 10, "the same case"]
    mark = "*" if row.extrapolated_patches else ""
    psnr = "identical" if row.psnr_db == EQUAL_DB else _number(row.psnr_db)
    return [
        *settings,
        _number(row.median_ms) + mark if row.is_speed else NOT_A_SPEED,
        _percent(row.median_uncertainty),
        _percent(row.spread),
        _number(row.p90_ms),
        _number(row.patches_per_s),
        _number(row.ttfi_ms),
        _number(row.peak_memory_mb),
        reached(row.read_gbps, row.limit_read_gbps),
        reached(row.gflops, row.limit_gflops),
        psnr,
        row.trust or "",
    ]


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, 2)


def reached(value: float | None, limit: float | None) -> str:
    """Such as ``18.6 (86 % of 21.6)``; a limit that was passed is none, and called that."""
    if value is None or not limit:
        return _number(value)
    if value > limit:
        return f"{value:.3g} (wrong limit: {limit:.3g})"
    return f"{value:.3g} ({value / limit:.0%} of {limit:.3g})"


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def remarks(rows: Sequence[Row]) -> list[str]:
    """Conditions, what was skipped and why, what is wrong with a number: each said once."""
    found = conditions_of(rows)
    said: dict[str, list[str]] = {}  # what is said, of which rows
    for row in rows:
        for text in _said(row):
            said.setdefault(text, []).append(row.name)
    found += in_few_lines((row.name, row.trust, row.trust_reasons) for row in rows)
    for text, names in said.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found.append(f"{text}: {names[0]}{more}")
    found += [f"accuracy: {row.accuracy_source}" for row in rows if row.accuracy_source]
    return list(dict.fromkeys(found))


def conditions_of(rows: Sequence[Row]) -> list[str]:
    """Machine, load and versions, each said once."""
    measured = [row for row in rows if row.status == "ok"] or rows
    return list(dict.fromkeys(filter(None, map(_conditions, measured))))


def _conditions(row: Row) -> str:
    cores = f"{row.cores} cores" if row.cores else None
    version = f"flowship {row.flowship_version}" if row.flowship_version else None
    if version and row.commit:
        version += f" ({row.commit})"
    engine = row.engine_version or row.engine
    words = [row.machine, cores, row.os, row.power, row.conditions, version, engine]
    return "; ".join(word for word in words if word)


def _said(row: Row) -> list[str]:
    if row.same_as:
        return [f"the same case as {row.same_as}, measured once"]
    found: list[str] = [] if row.status == "ok" else [f"{row.status}: {row.reason}"]
    if row.extrapolated_patches:
        found.append(
            f"* extrapolated from the first {row.extrapolated_patches} patches of each block, "
            "though later ones attend to more"
        )
    found += ["random weights"] * row.synthetic
    pairs = (row.read_gbps, row.limit_read_gbps), (row.gflops, row.limit_gflops)
    if any(value is not None and limit and value > limit for value, limit in pairs):
        found.append(WRONG_LIMIT)
    return found + list(row.notes)


WRONG_LIMIT = (
    "wrong limit: more was reached than the limit that was measured here, so it is none. Weights "
    "that stay in the processor's caches are read faster than memory, and a limit that was "
    "measured on a busy machine is too low"
)

_WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "md": _markdown,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a file in the format of its suffix; .jsonl and .sqlite grow, others are replaced.

    Rows of the same run that are there already give way to these.

    Raises:
        UsageError: another suffix.
    """
    check_format(path)
    if path.suffix.lower() in SQLITE_SUFFIXES:
        _append_sqlite(path, rows)
        return
    kind = SUFFIXES[path.suffix.lower()]
    before = _other_lines(path, rows) if kind == "jsonl" and path.is_file() else ""
    with atomic_file(path) as file:
        file.write((before + dumps(rows, kind)).encode())


def _runs(rows: Sequence[Row]) -> set[str]:
    return {row.run for row in rows if row.run}


def _other_lines(path: Path, rows: Sequence[Row]) -> str:
    """What a file has of other runs, ending with a whole line: what was cut is no row."""
    marks = [f'"run": {json.dumps(run)}' for run in _runs(rows)]
    lines = read_text(path).split("\n")
    if _is_cut(lines[-1]):
        lines.pop()
    kept = [line for line in lines if line.strip() and not any(mark in line for mark in marks)]
    return "".join(f"{line}\n" for line in kept)


def check_format(path: Path, *others: str) -> None:
    """UsageError unless write_rows() knows the suffix; ``others`` would have been known too."""
    if path.suffix.lower() not in SUFFIXES and path.suffix.lower() not in SQLITE_SUFFIXES:
        known = ", ".join([*SUFFIXES, *SQLITE_SUFFIXES, *others])
        raise UsageError(f"{path}: no format is called {path.suffix!r}: name a file with {known}")


def check_database(path: Path) -> None:
    """UsageError unless rows can be added to an existing database; nothing stays changed."""
    try:
        with closing(_connect(path)) as database:
            _grow_table(database)
            database.rollback()
    except sqlite3.Error as error:
        raise UsageError(f"{path} cannot take rows: {error}") from error


def _sql_type(name: str) -> str:
    hint = str(_HINTS[name])
    if name in _LISTS:
        return "TEXT"
    if "float" in hint:
        return "REAL"
    return "INTEGER" if "int" in hint or "bool" in hint else "TEXT"


def _append_sqlite(path: Path, rows: Sequence[Row]) -> None:
    names, marks = ", ".join(f'"{n}"' for n in _COLUMNS), ", ".join("?" * len(_COLUMNS))
    values = [[_cell(row, name) for name in _COLUMNS] for row in rows]
    try:
        with closing(_connect(path)) as database, database:
            _grow_table(database)
            runs = [(run,) for run in _runs(rows)]
            database.executemany(f"DELETE FROM {TABLE} WHERE run = ?", runs)
            database.executemany(f"INSERT INTO {TABLE} ({names}) VALUES ({marks})", values)
    except sqlite3.Error as error:
        raise UsageError(f"{path} cannot take rows: {error}") from error


def _grow_table(database: sqlite3.Connection) -> None:
    """Begin to write, and make the table or the columns that an older version did not have."""
    database.execute("BEGIN IMMEDIATE")  # a table is changed outside of any transaction otherwise
    columns = ", ".join(f'"{name}" {_sql_type(name)}' for name in _COLUMNS)
    database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns})")
    there = {line[1] for line in database.execute(f"PRAGMA table_info({TABLE})")}
    for name in _COLUMNS:
        if name not in there:
            database.execute(f'ALTER TABLE {TABLE} ADD COLUMN "{name}" {_sql_type(name)}')


def _connect(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path)
        database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise UsageError(f"{path}: not a database: {error}") from error
    return database


# -- reading ---------------------------------------------------------------------------------------


Note = Callable[[str], None]


def read_rows(path: Path, note: Note = say) -> list[Row]:
    """Rows of a file in any of the formats, or of an HTML report.

    Args:
        note: takes a line about a last row that was cut when its run was killed.

    Raises:
        UsageError: not such a file; the message says what is wrong where.
    """
    check_readable(path)
    if path.suffix.lower() in SQLITE_SUFFIXES:
        return _parse(_read_sqlite(path), str(path))
    return loads(read_text(path), path.suffix.lower().removeprefix("."), str(path), note)


def loads(text: str, kind: str, what: str, note: Note = say) -> list[Row]:
    """The opposite of dumps(); ``what`` begins the error messages."""
    try:
        if kind == "csv":
            values = _csv_lines(text, what, note)
        elif kind == "jsonl":
            values = _json_lines(text, what, note)
        elif kind == "md":
            values = _json_lines(_embedded(_MD_DATA, text, what), what, note)
        elif kind == "html":
            values = _json_rows(parse_json(_embedded(_HTML_DATA, text, what), what))
        else:
            values = _json_rows(parse_json(text, what))
    except (BundleError, csv.Error) as error:
        raise UsageError(str(error)) from error
    return _parse(values, what)


def _json_lines(text: str, what: str, note: Note) -> list[Any]:
    lines = text.split("\n")  # and not at the other ends of lines that a text may hold
    if _is_cut(lines[-1]):
        _leave_aside(what, len(lines), note)
        lines.pop()
    return [parse_json(s, f"{what}: line {n}") for n, s in enumerate(lines, 1) if s.strip()]


def _is_cut(last: str) -> bool:
    """Whether what follows the last end of a line is the beginning of a row."""
    return last.startswith("{") and not last.rstrip().endswith("}")


def _leave_aside(what: str, line: int, note: Note) -> None:
    note(f"note: {what}: line {line} was cut when its run was ended: it is left aside")


def _csv_lines(text: str, what: str, note: Note) -> list[Any]:
    reader, found = csv.DictReader(io.StringIO(text)), []
    for line in reader:
        number, unended = reader.line_num, reader.line_num > text.count("\n")
        try:
            if unended and None in line.values():
                raise UsageError("cells are missing")
            found.append(_uncell(line, f"{what}: line {number}: "))
        except UsageError:
            if not unended:
                raise
            _leave_aside(what, number, note)
    return found


def _json_rows(document: Any) -> list[Any]:
    """``{"rows": [...]}``, a bare list, or one row."""
    if isinstance(document, dict) and "rows" in document:
        document = document["rows"]
    return document if isinstance(document, list) else [document]


def _embedded(pattern: re.Pattern[str], text: str, what: str) -> str:
    match = pattern.search(text)
    if not match:
        raise UsageError(f"{what}: no rows of flowship bench inside")
    return match.group(1)


def _read_sqlite(path: Path) -> list[Any]:
    try:
        with closing(_connect(path)) as database:
            database.row_factory = sqlite3.Row
            found = database.execute(f"SELECT * FROM {TABLE}").fetchall()
    except sqlite3.Error as error:
        raise UsageError(f"{path}: {error}") from error
    return [_uncell({name: line[name] for name in line.keys()}) for line in found]  # noqa: SIM118


def _uncell(line: dict[str, Any], what: str = "") -> dict[str, Any]:
    """Cells of csv (all texts) and sqlite to JSON values; empty ones are left out."""
    found: dict[str, Any] = {}
    for name, cell in line.items():
        if name not in _HINTS or cell is None or cell == "":
            continue
        hint = str(_HINTS[name])
        try:
            if name in _LISTS:
                found[name] = json.loads(cell)
            elif "bool" in hint:
                found[name] = bool(int(cell))
            elif "float" in hint:
                found[name] = float(cell)
            else:
                found[name] = int(cell) if "int" in hint else str(cell)
        except ValueError as error:
            raise UsageError(f"{what}column {name}: {cell!r} cannot be read: {error}") from error
    return found


def _parse(values: Sequence[Any], what: str) -> list[Row]:
    try:
        rows = [from_json(Row, value, f"{what}: row {i + 1}") for i, value in enumerate(values)]
    except BundleError as error:
        raise UsageError(str(error)) from error
    known = [row.median_ms is not None and row.is_speed for row in rows]
    return [row if k else summarized(row) for row, k in zip(rows, known, strict=True)]
