"""Engines whose time is no speed: they check files, and a device runs those otherwise."""

from __future__ import annotations

NOT_A_SPEED = "not a speed"
UNTIMED_ENGINES = ("coreml-interpreter",)
UNTIMED_NOTE = (
    "coreml-interpreter checks files in Python: its time is not a speed, no device runs them so"
)
