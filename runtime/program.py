"""The process of a command: signals that end it, streams that can be written, its exit status.

Imported before everything else, and importing next to nothing: Ctrl-C may come at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

# Ctrl-C, kill, a terminal that is closed, and what Windows sends for that.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
REPEAT = 2.0  # seconds: shells, timeout(1) and process managers send the same signal twice

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class Interrupted(KeyboardInterrupt):
    """A signal asks for the end: what tidies up after Ctrl-C does so after all of them."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_status(error: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells have it."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def in_a_word(number: int) -> str:
    """What a signal did."""
    return "cancelled" if number == signal.SIGINT else "terminated"


def run(loaded: Callable[[], None] = lambda: None) -> int:
    """Run ``flowship`` with the words of this process; returns its exit status.

    Args:
        loaded: called once the command's modules are imported.
    """
    _open_closed_streams()
    numbers = _fatal_signals()
    _handle(numbers, _leave)
    for name in ("stdout", "stderr"):
        _escape_letters(getattr(sys, name))
        _name_failures(getattr(sys, name), name)
    from .cli import main

    try:
        _handle(numbers, interrupter)
        return main(loaded=loaded)
    except KeyboardInterrupt as error:  # before or after main() listened
        return exit_status(error)
    finally:
        _handle(numbers, signal.SIG_IGN)  # it ends already


def _fatal_signals() -> list[int]:
    """Those that are there and not ignored, as nohup and shells with background jobs have it."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _handle(numbers: list[int], handler: Handler) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """While modules are imported, which an exception would leave half done: nothing was begun."""
    with suppress(OSError, ValueError):
        os.write(2, f"flowship: {in_a_word(number)}\n".encode())
    os._exit(128 + number)


class Interrupter:
    """The handler that raises Interrupted, once: a repeat soon after is the same news, and does not
    disturb the tidying up.

    Attributes:
        raised: the last one. Libraries make other errors of it: half an import is "not installed".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, -float("inf")
        self.raised: Interrupted | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        before, self._last = self._last, self._clock()
        if self._last - before > REPEAT:
            self.raised = Interrupted(number)
            raise self.raised

    def again(self) -> None:
        """For long work, now and then: raise what a library swallowed.

        Imports of torch and scipy, seconds long, try parts under ``except:`` and go on.
        """
        if self.raised:
            raise self.raised


interrupter = Interrupter()  # of this process


# ---- streams ------------------------------------------------------------------------------------


def _open_closed_streams() -> None:
    """What was closed (``>&-``) leads nowhere from now on.

    Else the next file that is opened gets its number, and libraries print into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            mode = "w" if number else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _escape_letters(stream: TextIO) -> None:
    """Letters that a stream's encoding does not have, and halves of letters, are escaped."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _name_failures(stream: TextIO, name: str) -> None:
    """ "No space left on device" says where."""

    def named(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any) -> Any:
            try:
                return call(*given)
            except OSError as error:
                error.filename = error.filename or name
                raise

        return checked

    for method in ("write", "flush"):
        setattr(stream, method, named(getattr(stream, method)))
