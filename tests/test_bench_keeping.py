"""Rows are kept as they come, so that a run that ends early leaves what it measured."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Terminal

from flowship.benchmarks import formats
from flowship.benchmarks.contender import FlowContender
from flowship.benchmarks.formats import read_rows, write_rows
from flowship.benchmarks.keeping import EVERY, RowKeeper
from flowship.benchmarks.report import write_report
from flowship.benchmarks.row import Row
from flowship.runtime.atomic import atomic_file
from flowship.runtime.errors import UsageError

FAST = ("--no-cold", "--no-limits", "-q", "--threads", "1", "--patches", "2")
FILES = ("a.jsonl", "a.json", "a.csv", "a.md", "a.sqlite", "a.html")


def row(run: str = "r", window: str = "1", **fields: Any) -> Row:
    return Row(model="m", engine="onnx", window=window, samples_ms=(1.0, 2.0), run=run, **fields)


def test_what_is_still_measured_is_written_every_few_seconds(tmp_path: Path) -> None:
    now, unfinished = 0.0, {0: row(interrupted=True)}
    files = [tmp_path / name for name in FILES]
    keeper = RowKeeper(files, "md", clock=lambda: now)
    keeper.so_far(lambda: unfinished)
    assert not any(file.exists() for file in files)
    now = EVERY
    keeper.so_far(lambda: unfinished)
    for file in files:
        (found,) = read_rows(file)
        assert found.interrupted
    keeper.done(0, row())
    for file in files:
        (found,) = read_rows(file)  # not a second row
        assert not found.interrupted


def test_nothing_is_written_before_something_was_measured(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("what was there")
    now = 0.0
    keeper = RowKeeper([tmp_path / "a.json"], "jsonl", clock=lambda: now)
    keeper.done(0, Row(model="m", engine="teapot", status="skipped", reason="no"))
    now = 2 * EVERY
    keeper.so_far(dict)
    keeper.end(keeper.rows())
    assert (tmp_path / "a.json").read_text() == "what was there"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_are_printed_when_no_earlier_case_is_open(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keeper = RowKeeper([], kind)
    keeper.so_far(lambda: {0: row(window="1"), 1: row(window="2")})
    keeper.done(1, row(window="2"))
    assert capsys.readouterr().out == ""
    keeper.done(0, row(window="1"))
    text = capsys.readouterr().out
    keeper.done(2, row(window="4"))
    keeper.end(keeper.rows())
    text += capsys.readouterr().out
    file = tmp_path / f"a.{kind}"
    file.write_text(text)
    assert [found.window for found in read_rows(file)] == ["1", "2", "4"]


def test_rows_of_other_runs_stay(tmp_path: Path) -> None:
    for suffix in ("jsonl", "sqlite"):
        path = tmp_path / f"a.{suffix}"
        write_rows(path, [row("first"), row("first", "2")])
        write_rows(path, [row("second")])
        write_rows(path, [row("second"), row("second", "2")])
        found = [(each.run, each.window) for each in read_rows(path)]
        assert found == [("first", "1"), ("first", "2"), ("second", "1"), ("second", "2")]


def test_a_full_disk_loses_neither_the_rows_nor_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full, other = tmp_path / "full.json", tmp_path / "other.jsonl"
    notes: list[str] = []

    def write(path: Path) -> Any:
        if path == full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return atomic_file(path)

    monkeypatch.setattr(formats, "atomic_file", write)
    keeper = RowKeeper([full, other], "jsonl", note=notes.append)
    keeper.done(0, row())
    assert "full.json cannot be written now" in notes[0]
    keeper.done(1, row(window="2"))
    with pytest.raises(OSError, match="No space left"):
        keeper.end(keeper.rows())
    assert len(read_rows(other)) == 2 == len(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("kind", ["md", "json", "jsonl", "csv"])
def test_ctrl_c_leaves_what_was_measured(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    real, runs = FlowContender.run, []

    def run(self: FlowContender) -> Any:
        runs.append(self)
        if len(runs) > 12:  # four of each case, warm-up and samples
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(FlowContender, "run", run)
    file = tmp_path / "a.jsonl"
    words = ("--window", "1,2,4", "--warm-up", 1, "-r", 100, "-o", file, "--format", kind)
    ran = flowship("bench", *FAST, *words)
    assert ran.status == 130 and ran.err == "flowship bench: cancelled\n"
    rows = read_rows(file)
    assert [found.window for found in rows] == ["1", "2", "4"]
    assert [len(found.samples_ms) for found in rows] == [3, 3, 3]
    assert all(found.interrupted and found.trust != "trusted" for found in rows)
    printed = tmp_path / f"printed.{kind}"
    printed.write_text(ran.out)
    if kind == "md":
        assert ran.out.count("| fashion-mnist |") == 3 and "was interrupted" in ran.out
    else:
        assert [found.samples_ms for found in read_rows(printed)] == [r.samples_ms for r in rows]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_leaves_the_cases_that_are_over(tmp_path: Path) -> None:
    file, printed = tmp_path / "a.jsonl", tmp_path / "printed.csv"
    words = ("--window", "1,2", "--no-interleave", "-r", "30000", "--warm-up", "0")
    # the first case is over at once: its engine is told that it has its samples
    code = (
        "import sys; from flowship.benchmarks.turns import Effort; "
        "from flowship.runtime import cli; "
        "done = []; Effort.is_done = lambda *_: done.append(1) or len(done) == 3; "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    options = ["bench", *FAST, *words, "-o", str(file), "--format", "csv"]
    with printed.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=out)
    try:
        while process.poll() is None and not (file.exists() and printed.stat().st_size):
            time.sleep(0.02)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    for place in (file, printed):
        assert [found.window for found in read_rows(place)] == ["1"]


CUT = '{"model": "m", "engine": "onnx", "samples_ms": [1.0, 2.'
WHOLE = '{"model": "m", "engine": "onnx", "samples_ms": [1.0, 2.0, 3.0]}'


def test_a_cut_last_line_is_left_aside(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{WHOLE}\n{WHOLE}\n{CUT}")
    ran = flowship("bench", "compare", file, file, "--json")
    assert [found["verdict"] for found in ran.json["comparisons"]] == ["same"]
    assert ran.status == 0  # a copy of one measurement, however few samples it has
    note = f"note: {file}: line 3 was cut when its run was ended: it is left aside"
    assert ran.err.splitlines() == [note, note]
    ran = flowship.ok("bench", *FAST, "-r", 3, "-o", file)
    assert ran.err.splitlines() == [note]
    assert [found.model for found in read_rows(file)] == ["m", "m", "fashion-mnist"]


def test_a_whole_last_line_without_an_end_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(WHOLE)
    write_rows(file, [row()])
    assert len(read_rows(file)) == 2


def test_a_cut_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    write_rows(file, [row(), row(window="2")])
    whole = file.read_text()
    for missing in (2, 30, 60):
        file.write_text(whole[:-missing])
        assert [found.window for found in read_rows(file)] == ["1"]
        assert "line 3 was cut" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [CUT, "no row", WHOLE[:-1]])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{WHOLE}\n{bad}\n{WHOLE}\n")
    with pytest.raises(UsageError, match=r"a\.jsonl: line 2 is not JSON"):
        read_rows(file)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "md", "html"])
def test_rows_that_an_editor_saved(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    writer = write_report if kind == "html" else write_rows
    writer(file, [row(notes=("ü\u2028",))])
    text, before = file.read_text("utf-8"), read_rows(file)
    file.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_rows(file) == before
    if kind == "jsonl":
        write_rows(file, [row("other")])
        assert [found.run for found in read_rows(file)] == ["r", "other"]
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(UsageError, match=r"is text in UTF-16: save it as UTF-8"):
        read_rows(file)
