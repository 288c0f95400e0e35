"""coremltools, imported without its noise."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..extras import need


def import_coremltools(what: str, submodule: str = "") -> Any:
    """The package coremltools, or a submodule of it such as ``.converters.mil``.

    Args:
        what: the feature that needs it, for the error.

    Raises:
        MissingExtraError: it is not installed.
    """
    need(what, "coremltools")
    with _quiet():
        return importlib.import_module(f"coremltools{submodule}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute warnings and log lines while coremltools is imported.

    It reports untested versions of torch and scikit-learn, its macOS-only libraries missing
    elsewhere, and deprecations inside the packages it imports in turn; none concerns our calls.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
