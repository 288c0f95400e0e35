"""A progress line on stderr with the time that is left."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TextIO

from .program import interrupter

# The beginning of a work says little of its whole: imports and warm-up are in it.
KNOWN_SHARE, KNOWN_SECONDS = 0.03, 2.0  # done before the time that is left is estimated


def say(text: str) -> None:
    """A line on stderr. Where nobody can read it any more, the work still counts."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class ProgressLine:
    """Rewrites one line on a terminal; elsewhere prints a line every few seconds.

    Args:
        enabled: False says nothing at all.
        stream: stderr unless given.
    """

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._enabled, self._terminal = enabled, self._stream.isatty()
        self._interval = 0.1 if self._terminal else 5.0  # seconds
        self._start = time.monotonic()
        self._last, self._width = self._start if not self._terminal else 0.0, 0

    def update(self, fraction: float, text: str) -> None:
        """Show how far the work is, 0 to 1, and what is being done; or end it, if asked to."""
        interrupter.again()
        now = time.monotonic()
        if not self._enabled or now - self._last < self._interval:
            return
        self._last, elapsed = now, now - self._start
        known = fraction >= KNOWN_SHARE and elapsed >= KNOWN_SECONDS
        left = f", {format_seconds(elapsed * (1 - fraction) / fraction)} left" if known else ""
        self._show(f"{fraction:4.0%} {text}{left}")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if self._enabled:
            self.clear()
            self._write(f"{text}\n")

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal and self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _show(self, line: str) -> None:
        if not self._terminal:
            self._write(f"{line}\n")
            return
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # as in say()
            self._stream.write(text)
            self._stream.flush()


def format_seconds(seconds: float) -> str:
    """Such as ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
