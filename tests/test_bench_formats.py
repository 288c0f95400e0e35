"""Rows in every format and back, the report, and the grid of options."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flowship.benchmarks.formats import read_rows, table, write_rows
from flowship.benchmarks.grid import (
    Case,
    Grid,
    parse_counts,
    parse_numbers,
    parse_switches,
    parse_words,
    refusal,
)
from flowship.benchmarks.report import write_report
from flowship.benchmarks.row import Row, summarized
from flowship.benchmarks.trust import judged
from flowship.runtime import Bundle
from flowship.runtime.errors import UsageError

NASTY = 'a|b -->, "x" <script>\n</script>, ü'


def rows() -> list[Row]:
    """One row with everything awkward, one skipped one."""
    full = Row(
        model=NASTY,
        engine="onnx",
        precision="fp32",
        samples_ms=(20.125, 21.5, 22.75, 19.0625),
        sample_flags=("", "busy+steal", "", ""),
        cores=2,
        memory_gb=25.3,
        threads=1,
        window="auto",
        guidance=1.5,
        label=3,
        synthetic=True,
        num_patches=49,
        extrapolated_patches=16,
        psnr_db=200.0,
        bits_per_dim_change=-2e-10,
        notes=("one, two", "--"),
    )
    skipped = Row(model="m", engine="executorch", status="skipped", reason="it, is | not there")
    return [judged(summarized(full)), skipped]


@pytest.mark.parametrize("suffix", ["md", "csv", "json", "jsonl", "sqlite", "html"])
def test_every_format_gives_the_rows_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    (write_report if suffix == "html" else write_rows)(path, rows())
    assert read_rows(path) == rows()


@pytest.mark.parametrize("suffix", ["jsonl", "sqlite"])
def test_some_formats_grow(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    write_rows(path, rows())
    write_rows(path, rows()[:1])
    assert read_rows(path) == [*rows(), rows()[0]]


def test_an_unfinished_last_line_stays_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows())
    path.write_text(path.read_text().rstrip("\n"))
    write_rows(path, rows()[:1])
    assert read_rows(path) == [*rows(), rows()[0]]


def test_the_table_says_what_a_reader_has_to_know() -> None:
    text = table(rows())
    assert text.count("\n| ") == 3
    assert "extrapolated from the first 16 patches" in text
    assert "skipped: it, is | not there" in text
    assert "random weights" in text


def test_rows_of_other_devices_may_leave_out_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "phone.json"
    path.write_text(json.dumps({"model": "m", "engine": "wasm", "samples_ms": [3, 5, 4]}))
    (found,) = read_rows(path)
    assert found.median_ms == 4
    assert found.machine is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '{"rows": [{"engine": "x"}]}', "row 1: the key 'model' is missing"),
        ("a.json", '{"model": "m", "engine": "x", "samples_ms": [0]}', "not above 0"),
        ("a.json", '{"model": "m", "engine": "x", "samples_ms": "7"}', "expected a list"),
        ("a.md", "# nothing", "no rows of flowship bench inside"),
        ("a.csv", "model,engine,cores\nm,e,two\n", "column cores: 'two'"),
        ("a.sqlite", "not a database", "not a database"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        read_rows(path)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.txt.*\.jsonl"):
        write_rows(tmp_path / "a.txt", rows())


def test_the_report_needs_no_network_and_no_script(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, rows())
    text = path.read_text("utf-8")
    assert not re.search(r"""(src|href|url|@import)\s*[=(]""", text)
    assert "http" not in text
    assert re.findall(r"<script([^>]*)>", text) == [' type="application/json" id="rows"']
    assert text.count("</script>") == 1
    assert "prefers-color-scheme: dark" in text
    assert text.count("<circle") == 4


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1,2,2,4", [1, 2, 4]),
        ("1-4", [1, 2, 3, 4]),
        ("1..8*2", [1, 2, 4, 8]),
        ("2..10+4", [2, 6, 10]),
        ("auto,1,16", [None, 1, 16]),
        ("1..3,8", [1, 2, 3, 8]),
    ],
)
def test_lists_and_ranges(text: str, counts: list[int | None]) -> None:
    assert parse_counts(text, "--threads") == counts


@pytest.mark.parametrize("text", ["", "1,,2", "0", "4-1", "1..8*1", "1..9*0", "-3", "x", "1-99999"])
def test_bad_lists_name_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--threads"):
        parse_counts(text, "--threads")


def test_words_and_numbers() -> None:
    assert parse_words("onnx, coreml,onnx", "--engine") == ["onnx", "coreml"]
    assert parse_numbers("0,1.5", "--guidance") == [0.0, 1.5]
    for bad in ("nan", "-1", "inf", "x"):
        with pytest.raises(UsageError, match="--guidance"):
            parse_numbers(bad, "--guidance")


def test_switches() -> None:
    assert parse_switches("no,yes,auto,no", "--spinning") == [False, True, None]
    with pytest.raises(UsageError, match="--spinning 'on': choose from no, yes, auto"):
        parse_switches("on", "--spinning")


def test_the_grid_is_crossed() -> None:
    grid = Grid(engines=["onnx", "coreml"], windows=[None, 4], guidances=[0.0, 2.0])
    cases = list(grid.cases(2))
    assert len(cases) == len(set(cases)) == 16
    assert cases[0] == Case(0, "onnx", None, "cpu", None, None, 0.0)


@pytest.mark.parametrize(
    ("engine", "precision", "window", "reason"),
    [
        ("onnx", None, None, None),
        ("onnx", "fp32", 49, None),
        ("onnx", "int3", None, "the bundle has no int3 for onnx, only fp32"),
        ("onnx", "fp32", 50, "a window of 50 is longer than the 49 patches"),
        ("teapot", None, None, "the bundle has nothing for teapot, only for onnx"),
    ],
)
def test_what_cannot_run_says_why(
    engine: str, precision: str | None, window: int | None, reason: str | None
) -> None:
    with Bundle.open() as bundle:
        found = refusal(Case(0, engine, precision, "cpu", None, window, 0.0), bundle)
    assert (found is None) if reason is None else reason in (found or "")
