"""The ExecuTorch target: torch modules that run a network's operations, lowered to XNNPACK."""

from __future__ import annotations

from .target import ExecuTorchTarget, stored

__all__ = ["ExecuTorchTarget", "stored"]
