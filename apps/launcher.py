"""The command ``flowship``: loads the command line with the garbage collector out of the way."""

from __future__ import annotations

import gc
import signal


def main() -> int:
    """Run ``flowship`` with the words of this process."""
    # What modules define stays: looking for garbage in it takes 35 of 540 ms of a first picture.
    gc.disable()
    # Ctrl-C while the little is imported that listens for it: no traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ..runtime.program import run

    return run(_loaded)


def _loaded() -> None:
    gc.freeze()
    gc.enable()
