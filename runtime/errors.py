"""What a caller may catch.

FlowshipError
├── UsageError          a wrong argument or choice (also a ValueError; the CLI exits with 2)
├── BundleError         a bundle is incomplete, damaged, hostile or too new
├── CheckpointError     a file is not a checkpoint that can be exported
├── EngineError         an engine cannot do what was asked of it
│   └── MissingExtraError   its package is not installed
├── NonFiniteError      NaN or infinity during generation or encoding
└── ParityError         an artifact differs from the trained model by more than its threshold
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class FlowshipError(Exception):
    """Base of all errors that flowship raises on purpose."""


class UsageError(FlowshipError, ValueError):
    """A wrong argument or choice."""


class BundleError(FlowshipError):
    """A bundle is incomplete, damaged, hostile or too new."""


class CheckpointError(FlowshipError):
    """A file is not a checkpoint that can be exported."""


class EngineError(FlowshipError):
    """An engine cannot do what was asked of it."""


class MissingExtraError(EngineError):
    """The package behind an engine is not installed; the message says what to type."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install 'flowship[{extra}]'"
        )
        self._parts = what, package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """A process pool pickles errors, and would call this class with its message alone."""
        return type(self), self._parts


class NonFiniteError(FlowshipError):
    """NaN or infinity appeared; it is never written as an image.

    Attributes:
        failed: the pictures that are not finite, each with its number and seed.
        made: the others: of Flow.generate() a Generated, of Flow.decode() all images with NaN in
            those that failed; None where there are none.
    """

    failed: tuple[Any, ...] = ()
    made: Any = None


class ParityError(FlowshipError):
    """An artifact differs from the trained model by more than its threshold."""
