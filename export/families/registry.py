"""Which families there are, and which one a checkpoint belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from . import tarflow


@dataclass(frozen=True)
class Family:
    """A family's name and the test that recognises its checkpoints by their tensor names."""

    name: str
    matches: Callable[[Collection[str]], bool]


FAMILIES = (Family("tarflow", tarflow.is_tarflow),)

# Other flows, by a name that only they have, so that the error can say what the file is.
_NOT_YET = {
    "STARFlow": r"blocks\.\d+\.sos_embed",
    "GLOW": r"(blocks\.\d+\.flows|flow\.layers)\.\d+\.(actnorm|invconv)\b",
    "DenseFlow": r"transforms\.\d+\.blocks\.",
    "MaCow": r"flow\.blocks\.\d+\.steps\.",
}


def sniff_family(names: Collection[str], file_name: str) -> Family:
    """The family of a checkpoint.

    Raises:
        CheckpointError: none is recognised; the message says what the file is or holds instead.
    """
    for family in FAMILIES:
        if family.matches(names):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    for other, pattern in _NOT_YET.items():
        if any(re.search(pattern, name) for name in names):
            raise CheckpointError(
                f"{file_name}: a {other} checkpoint; the supported families are {known}"
            )
    shown = ", ".join(list(names)[:3]) or "no named tensors"
    raise CheckpointError(
        f"{file_name}: not a checkpoint of a supported family ({known}), it holds {shown}"
        + (" ..." if len(names) > 3 else "")
    )
