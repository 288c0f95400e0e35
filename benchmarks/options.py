"""What the options of several bench commands mean."""

from __future__ import annotations

import argparse
import re
from math import inf

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def share(text: str) -> float:
    """``5%`` or ``0.05``; a bare 5 is most likely meant as the first, and would be 500 %."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a share, as in 5% or 0.05")
    if value >= 1 and not text.endswith("%"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is a share of 1 and more: say 5% or 0.05")
    return value


def duration(text: str) -> float:
    """Seconds of ``30s``, ``5m``, ``1.5h``, or ``90``."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0.0 < seconds < inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a duration, as in 30s, 5m or 1h")
    return seconds


def count(text: str) -> int:
    """A number of runs from 1 up."""
    return _whole(text, 1)


def count_or_none(text: str) -> int:
    """A number of runs from 0 up."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} up")
    return int(text)
