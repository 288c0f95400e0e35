"""What a function of a Core ML step package must have: outputs, and a KV cache for every layer."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import BundleError
from ..manifest import Artifact
from ..spec import ARBlock
from .mil import Executable


def state_names(num_layers: int, branches: int) -> list[str]:
    """Names of a function's states, as ``coreml_stage`` describes them."""
    prefix = "" if branches == 1 else "guided_"
    return [f"{prefix}{n}_{layer}" for layer in range(num_layers) for n in "kv"]


def check_signature(executable: Executable, name: str, stage: ARBlock, artifact: Artifact) -> None:
    """Refuse a function that lacks something which a step of this block has.

    A program without a cache runs, and forgets what was before the window.

    Raises:
        BundleError: a state or an output is missing or of another type; the message names it, the
            function and the artifact.
    """
    problem = next(_problems(executable, stage, artifact.branches), None)
    if problem:
        raise BundleError(
            f"{artifact.path}: the function {name} has {problem}: it is damaged or was changed, "
            "export the bundle again"
        )


def _problems(executable: Executable, stage: ARBlock, branches: int) -> Iterator[str]:
    outputs = ("xb",) if stage.scale == "none" else ("xa", "xb")
    for output in outputs:
        if output not in executable.outputs:
            there = ", ".join(executable.outputs) or "none"
            yield f"no output {output!r} (its outputs: {there})"
    sizes = (branches, stage.num_heads, stage.head_dim)
    for state in state_names(stage.num_layers, branches):
        if state not in executable.states:
            there = ", ".join(executable.states) or "none"
            yield f"no state {state!r} (its states: {there})"
        kind = executable.states[state]
        R, H, _, d = kind.shape if len(kind.shape) == 4 else (0, 0, 0, 0)
        if (R, H, d) != sizes:
            yield f"the state {state} {kind}, expected [R, H, S, d] with (R, H, d) = {sizes}"
