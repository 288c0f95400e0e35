"""SHA-256 of files, read in pieces."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_PIECE_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_bytes(data: bytes) -> str:
    """64 hexadecimal digits in lower case."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits in lower case; needs 1 MiB of memory whatever the file's size."""
    digest, piece = hashlib.sha256(), bytearray(_PIECE_BYTES)
    view = memoryview(piece)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
    return digest.hexdigest()


def is_sha256(text: str) -> bool:
    """Whether a text is a hash as these functions write it."""
    return _SHA256.fullmatch(text) is not None
