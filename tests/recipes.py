"""A recipe for tests of the pictures that carry one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowship.runtime.recipe import Recipe

_PLAIN = Recipe(
    flowship_version="0.1.0",
    bundle="fashion-mnist",
    bundle_sha256="a" * 64,
    engine="onnx",
    engine_version="onnxruntime 1.32.0",
    device="cpu",
    precision="fp32",
    plan_sha256="b" * 64,
    seeds=(7,),
    labels=(None,),
)


def recipe(**said: Any) -> Recipe:
    """Of one picture without a class, in everything that is not said."""
    return replace(_PLAIN, **said)
