"""Which families there are, and which one a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from . import tarflow


@dataclass(frozen=True)
class Family:
    """A family's name and the test that recognises its checkpoints by their tensor names."""

    name: str
    matches: Callable[[Sequence[str]], bool]


FAMILIES = (Family("tarflow", tarflow.is_tarflow),)


def sniff_family(names: Sequence[str], file_name: str) -> Family:
    """The family of a checkpoint.

    Raises:
        CheckpointError: none is recognised; the message shows what the file holds instead.
    """
    for family in FAMILIES:
        if family.matches(names):
            return family
    shown = ", ".join(list(names)[:3]) or "nothing"
    raise CheckpointError(
        f"{file_name}: not a checkpoint of a supported family "
        f"({', '.join(family.name for family in FAMILIES)}); it holds {shown}"
        + (" ..." if len(names) > 3 else "")
    )
