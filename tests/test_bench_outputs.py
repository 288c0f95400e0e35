"""Places of results are looked at before anything is measured."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_line import Terminal

from flowship.benchmarks import command
from flowship.benchmarks.formats import read_rows, write_rows
from flowship.benchmarks.outputs import check_output, check_report, write_output
from flowship.benchmarks.row import Row
from flowship.runtime.errors import UsageError

ROW = Row(model="m", engine="onnx", samples_ms=(1.0, 2.0, 3.0))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, even of root")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring is a failure."""

    def measure(*words: object, **options: object) -> None:
        raise AssertionError("measured before the place was looked at")

    monkeypatch.setattr(command, "measure", measure)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/a.jsonl", "does not exist"),
        (".", "is a folder"),
        ("a.txt", "no format is called '.txt'"),
        pytest.param("/proc/a.jsonl", "/proc/a.jsonl cannot be written", marks=LINUX),
        pytest.param("/proc/a.html", "/proc/a.html cannot be written", marks=LINUX),
        pytest.param("/proc/a.sqlite", "/proc/a.sqlite cannot be written", marks=LINUX),
    ],
)
def test_bench_refuses_a_place_first(flowship: Terminal, place: str, message: str) -> None:
    assert message in flowship.refused("bench", "-o", place)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/a.html", "does not exist"),
        (".", "is a folder"),
        ("a.md", "-o a.md: name a file that ends in .html or .htm"),
        pytest.param("/proc/a.html", "/proc/a.html cannot be written", marks=LINUX),
    ],
)
def test_report_refuses_a_place_first(flowship: Terminal, place: str, message: str) -> None:
    assert message in flowship.refused("bench", "report", "rows.jsonl", "-o", place)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    for name in ("a.md", "a.csv", "a.json", "a.jsonl", "a.sqlite", "a.html"):
        check_output(tmp_path / name)
    check_report(tmp_path / "b.html")
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(old)) as database, database:
        database.execute('CREATE TABLE rows ("model" TEXT, "engine" TEXT)')
    before = old.read_bytes()
    check_output(old)
    assert old.read_bytes() == before and list(tmp_path.iterdir()) == [old]
    write_rows(old, [ROW])
    assert [row.samples_ms for row in read_rows(old)] == [ROW.samples_ms]


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    for name in ("A.HTML", "A.JSONL"):
        check_output(tmp_path / name)
        write_output(tmp_path / name, [ROW])
        assert [row.samples_ms for row in read_rows(tmp_path / name)] == [ROW.samples_ms]


def test_a_database_that_takes_no_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "view.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE VIEW rows AS SELECT 1 AS model")
    for use in (check_output, lambda path: write_rows(path, [ROW])):
        with pytest.raises(UsageError, match=r"view\.sqlite cannot take rows"):
            use(path)
