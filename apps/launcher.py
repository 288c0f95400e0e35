"""The command ``flowship``: loads the command line with the garbage collector out of the way."""

from __future__ import annotations

import gc


def main() -> int:
    """Run ``flowship`` with the words of this process."""
    # What modules define stays: looking for garbage in it takes 35 of 540 ms of a first picture.
    gc.disable()
    from ..runtime.cli import main as run

    gc.freeze()
    gc.enable()
    return run()
