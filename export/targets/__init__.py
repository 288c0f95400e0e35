"""Export targets by name, and the engine that checks each of them on this machine."""

from __future__ import annotations

import sys

from .base import Target, TargetOptions
from .coreml import CoreMLTarget
from .executorch import ExecuTorchTarget
from .onnx import OnnxTarget

__all__ = ["TARGETS", "Target", "TargetOptions", "checking_engine"]

TARGETS: dict[str, Target] = {
    "onnx": OnnxTarget(),
    "executorch": ExecuTorchTarget(),
    "coreml": CoreMLTarget(),
}


def checking_engine(engine: str) -> str:
    """The engine that runs a target's artifacts here: off macOS Core ML's are interpreted."""
    return "coreml-interpreter" if engine == "coreml" and sys.platform != "darwin" else engine
