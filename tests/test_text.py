"""Names that are not Unicode and streams that are not UTF-8: what is written can be read again."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flowship.benchmarks.formats import FORMATS, dumps, loads, read_rows, write_rows
from flowship.benchmarks.report import write_report
from flowship.benchmarks.row import Row
from flowship.runtime import EngineError, Manifest
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.commands.options import print_json
from flowship.runtime.manifest import MANIFEST
from flowship.runtime.text import ascii_json, is_utf8, printable, utf8_path

HALF = "caf\udce9-模-😀-é"  # as os.fsdecode() makes it of bytes that are not UTF-8


def _stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")


@pytest.mark.parametrize("spelling", ["utf-8", "UTF8", "utf_8", "U8", "cp65001"])
def test_spellings_of_utf8(spelling: str) -> None:
    assert is_utf8(_stream(spelling))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1", "utf-16", "shift-jis"])
def test_json_is_json_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"name": HALF, HALF: [1]})
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    text = stream.buffer.getvalue().decode(encoding)  # no byte that the encoding does not have
    assert json.loads(text) == {"name": HALF, HALF: [1]}
    assert text.isascii() != (encoding == "utf-8")


def test_text_that_every_file_can_hold() -> None:
    assert printable(HALF).encode().decode() == HALF.replace("\udce9", "\\udce9")
    assert printable("模 é") == "模 é"
    text = json.dumps({"é": HALF}, ensure_ascii=False)
    assert ascii_json(text).isascii() and json.loads(ascii_json(text)) == json.loads(text)


def test_a_manifest_is_read_in_every_language() -> None:
    """A licence or a file's name from the command line; an escape of half a letter is refused."""
    manifest = Manifest.loads((EMBEDDED / MANIFEST).read_text("utf-8"))
    text = replace(manifest, source=replace(manifest.source, licence=HALF)).dumps()
    found = Manifest.loads(text.encode().decode()).source.licence
    assert found == printable(HALF) and found.encode()


def test_a_library_that_takes_no_such_path() -> None:
    assert utf8_path(Path("模/é"), "ONNX Runtime") == os.path.join("模", "é")
    with pytest.raises(EngineError, match="ONNX Runtime opens no files whose path is not UTF-8"):
        utf8_path(Path(HALF), "ONNX Runtime")


@pytest.mark.parametrize("suffix", ["md", "csv", "json", "jsonl", "sqlite"])
def test_measurements_with_such_names_are_kept(suffix: str, tmp_path: Path) -> None:
    row = Row(model=HALF, engine="onnx", status="failed", reason=f"{HALF}: no", notes=(HALF,))
    path = tmp_path / f"rows.{suffix}"
    write_rows(path, [row])
    (found,) = read_rows(path)
    assert found.notes == (HALF,)
    assert HALF in found.model or printable(HALF) in found.model
    if suffix in FORMATS:
        dumps([row], suffix).encode()
        assert loads(dumps([row], suffix), suffix, "x") == [found]
    write_report(tmp_path / "x.html", [row, replace(found, threads=2)])
    assert [again.engine for again in read_rows(tmp_path / "x.html")] == ["onnx", "onnx"]
