"""Prints the oldest versions that pyproject.toml declares, for pip; extras are its arguments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest_versions(extras: list[str]) -> list[str]:
    """Such as ``numpy==1.26``, of the package itself and of the extras.

    Raises:
        KeyError: no such extra.
    """
    text = PYPROJECT.read_text("utf-8")  # Python 3.10 reads no TOML
    lists = dict(re.findall(r"^([\w-]+) = \[(.*)\]", text, re.MULTILINE))
    wanted = [lists[name] for name in ("dependencies", *extras)]
    found = [re.findall(r'"([\w-]+)>=([\d.]+)"', declared) for declared in wanted]
    return [f"{name}=={version}" for declared in found for name, version in declared]


if __name__ == "__main__":
    print(*oldest_versions(sys.argv[1:]))
