"""How a weight matrix can be stored: the formats that targets share, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...runtime.errors import UsageError


@dataclass(frozen=True)
class Format:
    """One way to store a matrix [out, in].

    Attributes:
        name: such as ``int4_g32``.
        kind: ``linear`` (integer codes times scales) or ``palette`` (indices into a table).
        bits: of one code.
        group_size: neighbours along ``in`` that share a scale; None is one scale for a row.
    """

    name: str
    kind: Literal["linear", "palette"]
    bits: int
    group_size: int | None = None

    def groups(self, columns: int) -> int:
        """Number of scales of one row; the last group may be shorter."""
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def weight_bytes(self, rows: int, columns: int, scale_bytes: int = 4) -> int:
        """Bytes of the codes, and of the scales or the table, of a matrix [rows, columns]."""
        codes = -(-rows * columns * self.bits // 8)
        if self.kind == "palette":
            return codes + scale_bytes * (1 << self.bits)
        return codes + scale_bytes * rows * self.groups(columns)


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("int8", "linear", 8),
        Format("int8_g128", "linear", 8, 128),
        Format("int8_g64", "linear", 8, 64),
        Format("int8_g32", "linear", 8, 32),
        Format("int4_g128", "linear", 4, 128),
        Format("int4_g64", "linear", 4, 64),
        Format("int4_g32", "linear", 4, 32),
        Format("pal8", "palette", 8),
        Format("pal6", "palette", 6),
        Format("pal4", "palette", 4),
    )
}


def find_formats(names: Iterable[str]) -> list[Format]:
    """Formats by name.

    Raises:
        UsageError: an unknown name.
    """
    found = []
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"unknown weight format {name!r}: choose from {', '.join(FORMATS)}")
        found.append(FORMATS[name])
    return found
