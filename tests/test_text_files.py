"""Text files as editors of several systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowship.runtime.errors import UsageError
from flowship.runtime.text_files import read_text


@pytest.mark.parametrize(
    "data",
    [
        "cat\nmöwe\n".encode(),
        "cat\nmöwe\n".encode("utf-8-sig"),
        "cat\r\nmöwe\r\n".encode("utf-8-sig"),
        "cat\rmöwe\r".encode(),
    ],
)
def test_marks_and_ends_of_lines_are_no_text(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(data)
    assert read_text(path) == "cat\nmöwe\n"


@pytest.mark.parametrize(
    ("codec", "word"),
    [
        ("utf-16", "is text in UTF-16"),
        ("utf-16-be", "is text in UTF-16"),
        ("utf-16-le", "is text in UTF-16"),
        ("utf-32", "is text in UTF-32"),
        ("latin-1", r"is not text in UTF-8 \(byte 0xf6 in line 2\)"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, codec: str, word: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("cat\nmöwe\n".encode(codec))
    with pytest.raises(UsageError, match=rf"names\.txt {word}.*save it as UTF-8"):
        read_text(path)


def test_json_in_another_encoding_is_still_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}'.encode("utf-16-le"))
    with pytest.raises(UsageError, match=r"is text in UTF-16.*save it as UTF-8"):
        read_text(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((2).to_bytes(8, "little") + b"{}", "a checkpoint \\(safetensors\\)"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\x1f\x8b\x08\xff", "a gzip archive"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"names.txt is {words}, not text$"):
        read_text(path)
