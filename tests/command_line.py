"""Runs ``flowship`` in this process, as a user would in a terminal."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pytest

from flowship.runtime import cli


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Calls the command line with captured streams."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Ran:
        """Run ``flowship WORDS``."""
        self._capsys.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as error:  # argparse leaves this way
            status = int(error.code or 0)
        captured = self._capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    def ok(self, *words: object) -> Ran:
        """Run it and require success."""
        ran = self(*words)
        assert ran.status == 0, ran.err
        return ran

    def refused(self, *words: object, status: int = 2) -> str:
        """Run it and require one line on stderr, nothing on stdout; returns the line."""
        ran = self(*words)
        assert (ran.status, ran.out) == (status, ""), ran
        assert ran.err.endswith("\n") and ran.err.count("\n") == 1, ran.err
        assert ran.err.startswith("flowship")
        assert "Traceback" not in ran.err
        return ran.err


def nothing_written(*allowed: str) -> None:
    """The folder that ``flowship`` ran in holds what a test put there, and nothing else."""
    found = sorted(os.listdir())
    assert found == sorted(allowed), found
