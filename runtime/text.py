"""Text as streams and files can hold it: names of files need not be Unicode, nor streams UTF-8."""

from __future__ import annotations

import codecs
import json
import os
import re
from typing import TextIO

from .errors import EngineError


def printable(text: str) -> str:
    """``text`` without halves of letters, which stand for bytes of a name and no file can hold.

    They become ``\\udcff``, which in JSON is the escape that means the same half.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def readable(name: str) -> str:
    """The name of a file for people: its bytes that are no UTF-8 become ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def portable_json(text: str) -> str:
    """JSON for readers in all languages: some refuse an escape that means half a letter.

    The half is spelt out, with a backslash for a letter.
    """
    return re.sub("[\ud800-\udfff]", lambda match: f"\\\\u{ord(match[0]):04x}", text)


def ascii_json(text: str) -> str:
    """The same JSON in ASCII."""
    return re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream writes UTF-8, however its encoding is spelt."""
    try:
        return codecs.lookup(stream.encoding or "ascii").name == "utf-8"
    except (AttributeError, LookupError):
        return False


def utf8_path(path: str | os.PathLike[str], what: str) -> str:
    """A path for a library that takes no other names.

    Args:
        what: the library, for the error.

    Raises:
        EngineError: the name is not UTF-8.
    """
    text = os.fspath(path)
    if text != printable(text):
        raise EngineError(f"{what} opens no files whose path is not UTF-8: rename {text}")
    return text
