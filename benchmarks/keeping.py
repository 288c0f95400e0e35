"""Rows kept as they come: in every output file and, where the format can grow, on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..runtime.commands.options import print_json_text
from ..runtime.errors import FlowshipError
from .formats import dumps, table
from .outputs import write_output
from .row import Row

EVERY = 5.0  # seconds between two writings while cases are sampled
STREAMED = ("jsonl", "csv")  # formats whose beginning does not depend on the rows to come


class RowKeeper:
    """Holds the rows of a run and writes them.

    A file has what there is every few seconds, so that a run that is killed leaves it. Nothing is
    written before something was measured.

    Args:
        outputs: files in the formats of their suffixes.
        kind: what stdout gets.
        stream: rows may be printed when their case is over; else all of them at the end.
        note: takes a line for the user.
        clock: seconds.
    """

    def __init__(
        self,
        outputs: Sequence[Path],
        kind: str,
        *,
        stream: bool = True,
        note: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outputs, self._kind, self._note, self._clock = outputs, kind, note, clock
        self._stream = stream and kind in STREAMED
        self._rows: dict[int, Row] = {}
        self._unfinished: Callable[[], Mapping[int, Row]] = dict
        self._written = clock()
        self._printed: set[int] = set()

    def done(self, number: int, row: Row) -> None:
        """A case is over: its row is written now."""
        self._rows[number] = row
        if row.status == "skipped":
            return
        self._print_first()
        self._write_quietly()

    def so_far(self, rows: Callable[[], Mapping[int, Row]]) -> None:
        """Write the unfinished cases too, unless that was done a moment ago."""
        self._unfinished = rows
        if self._clock() - self._written >= EVERY:
            self._write_quietly()

    def rows(self) -> list[Row]:
        """All there is, in the order of the cases."""
        found = {**self._unfinished(), **self._rows}
        return [found[number] for number in sorted(found)]

    def end(self, rows: Sequence[Row]) -> None:
        """The run is over, or was broken off: print and write the rows for good.

        Every file is tried; the first error is raised after that.
        """
        if not any(row.status != "skipped" for row in rows):
            return
        self._print_rest(rows)
        errors = [error for path in self._outputs if (error := _try(path, rows))]
        if errors:
            raise errors[0]

    def _write_quietly(self) -> None:
        """What fails now is tried again at the end, when it is an error."""
        rows = self.rows()
        if any(row.status != "skipped" for row in rows):
            for path in self._outputs:
                if error := _try(path, rows):
                    self._note(f"{path} cannot be written now: {error}")
        self._written = self._clock()

    def _print_first(self) -> None:
        """Rows that no unfinished case comes before."""
        if self._stream:
            waiting = min(set(self._unfinished()) - set(self._rows), default=None)
            self._print({n: r for n, r in self._rows.items() if waiting is None or n < waiting})

    def _print_rest(self, rows: Sequence[Row]) -> None:
        if self._stream:
            self._print({**self._unfinished(), **self._rows})
        else:
            self._print_text(table(rows) if self._kind == "md" else dumps(rows, self._kind))

    def _print(self, rows: Mapping[int, Row]) -> None:
        """Those that are not printed yet; the header of csv comes once."""
        fresh = [number for number in sorted(rows) if number not in self._printed]
        if fresh:
            text = dumps([rows[number] for number in fresh], self._kind)
            if self._kind == "csv" and self._printed:
                text = text.partition("\n")[2]
            self._printed.update(fresh)
            self._print_text(text)

    def _print_text(self, text: str) -> None:
        print_json_text(text) if "json" in self._kind else print(text, end="", flush=True)


def _try(path: Path, rows: Sequence[Row]) -> Exception | None:
    try:
        write_output(path, rows)
    except (OSError, FlowshipError) as error:
        return error
    return None
