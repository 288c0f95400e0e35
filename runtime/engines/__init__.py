"""Engines run the artifacts of a bundle. Each is a module, imported when it is asked for."""

from __future__ import annotations

import importlib

from ..errors import UsageError
from .base import (
    ENGINES,
    ARStage,
    Engine,
    EngineFactory,
    EngineInfo,
    EngineOptions,
    VJPStage,
    register_engine,
)

__all__ = [
    "ENGINES",
    "ENGINE_NAMES",
    "ARStage",
    "Engine",
    "EngineFactory",
    "EngineInfo",
    "EngineOptions",
    "VJPStage",
    "find_engine",
    "register_engine",
]

ENGINE_NAMES = ("onnx", "executorch", "coreml", "coreml-interpreter")


def find_engine(name: str) -> EngineFactory:
    """The factory that is registered under ``name``.

    Raises:
        UsageError: there is none; the message lists those that exist.
    """
    if name in ENGINE_NAMES and name not in ENGINES:
        importlib.import_module(f".{name.replace('-', '_')}", __name__)
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}: choose from {', '.join(ENGINE_NAMES)}")
    return ENGINES[name]
