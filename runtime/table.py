"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; a column of numbers alone is right-aligned."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("+-")[:1].isdigit()


def format_number(value: float, form: str) -> str:
    """``format(value, form)``, but what rounds to nothing is 0 without a sign."""
    text = format(value, form)
    digits = text.lower().partition("e")[0]
    zero = "0" in digits and not set(digits) & set("123456789")  # nan and inf have none either
    return text.lstrip("+-") if zero else text


def format_interval(low: float | None, high: float | None) -> str:
    """Of a change of bits/dim; a dash where it is not known."""
    if low is None or high is None:
        return "-"
    return f"{format_number(low, '+.5f')} to {format_number(high, '+.5f')}"


def format_bytes(count: float) -> str:
    """Such as ``512 B``, ``13.1 MB``, ``1.86 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
