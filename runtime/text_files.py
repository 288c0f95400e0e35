"""Text that people saved: UTF-8 with or without a byte order mark, any ends of lines."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from .errors import UsageError

_SAVE_AS = (
    "save it as UTF-8 (Notepad and Excel: Save as, UTF-8; PowerShell: Out-File -Encoding utf8)"
)
# UTF-32 first: its mark begins with that of UTF-16
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(
    path: str | os.PathLike[str], name: str | None = None, *, most: int | None = None
) -> str:
    """The text of a file, without its mark and with ``\\n`` at the end of lines.

    Args:
        name: begins the message; None for the path.
        most: bytes that are believed.

    Raises:
        UsageError: it is not text in UTF-8, or too long; the message says what it is and how to
            save it.
    """
    called = os.fspath(path) if name is None else name
    with open(path, "rb") as file:
        data = file.read() if most is None else file.read(most + 1)
    try:
        text = decode_text(data, called)
        if most is not None and len(data) > most:
            raise UsageError(f"{called} has more than {most:,} bytes")
        return text
    except UsageError as error:
        from .file_kinds import find_kind  # for mistakes alone

        kind = find_kind(Path(path))
        if kind is None or kind.is_text:
            raise
        raise UsageError(f"{called} is {kind.words}, not text") from error


def decode_text(data: bytes, name: str) -> str:
    """The same for bytes; ``name`` begins the message."""
    wide = next((word for mark, word in _WIDE.items() if data.startswith(mark)), None)
    if wide is None and b"\0" in data[:2]:  # letters of two bytes, without a mark
        wide = "UTF-16"
    if wide:
        raise UsageError(f"{name} is text in {wide}: {_SAVE_AS}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UsageError(
            f"{name} is not text in UTF-8 (byte 0x{byte:02x} in line {line}): {_SAVE_AS}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
