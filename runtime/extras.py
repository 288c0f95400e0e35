"""Packages that only some commands need, and the extra of flowship that brings each."""

from __future__ import annotations

import importlib.util

from .errors import MissingExtraError

EXTRAS = {
    "onnxruntime": "onnx",
    "coremltools": "coreml",
    "executorch": "executorch",
    "torch": "export",
    "onnx": "export",
    "psutil": "bench",
    "pynvml": "bench-gpu",
    "starlette": "serve",
    "uvicorn": "serve",
}


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # whatever hides it also answers for it
        return False


def need(what: str, *packages: str) -> None:
    """Say at once what to install, not when the package is imported after minutes of work.

    Raises:
        MissingExtraError: one of the packages is not there.
    """
    for package in packages:
        if not is_installed(package):
            raise MissingExtraError(what, package, EXTRAS[package])
