"""ONNX Runtime, imported without its telemetry.

Version 1.32 for Linux makes a device id and a database under ``$XDG_CACHE_HOME/Microsoft`` when it
starts, and seconds later looks up a server of its maker to send them to. Only this variable, set
before the library is loaded, keeps it from that; ``disable_telemetry_events()`` comes too late.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from ..errors import EngineError
from ..extras import need

OLDEST = (1, 23)  # as in pyproject.toml, which says why


def version_numbers(version: str) -> tuple[int, int]:
    """(1, 23) of 1.23.2."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def outdated(version: str) -> str:
    """What to add to an error where the installed version is older than what is supported."""
    if version_numbers(version) >= OLDEST:
        return ""
    oldest = ".".join(map(str, OLDEST))
    return f" (onnxruntime {version} is installed, flowship needs {oldest} or newer)"


def import_onnxruntime(what: str) -> Any:
    """The package onnxruntime.

    Args:
        what: the feature that needs it, for the error.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: it is, but for another Python or system.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    need(what, "onnxruntime")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"{what}: onnxruntime is installed and cannot be loaded: {error}"
        ) from error
