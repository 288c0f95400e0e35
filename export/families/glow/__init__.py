"""GLOW in five ports: their checkpoints, the form they have in common, and its graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ....runtime.errors import CheckpointError
from ...sources.sidecars import Sidecar
from ...sources.tensor_file import TensorFile
from ...sources.tensor_names import plain_names
from . import chaiyujin, normflows, openai, rosinality, y0ast
from .emit import CONDITION, emit_decode, emit_encode
from .flags import GlowFlags, parse_image_size
from .model import GlowConfig, GlowModel, Port
from .reference import Reference, reference_of
from .tensors import Tensors, module_prefixes
from .weights import prior_arrays, step_arrays, weight_arrays

__all__ = [
    "CONDITION",
    "GlowConfig",
    "GlowFlags",
    "GlowModel",
    "Reference",
    "emit_decode",
    "emit_encode",
    "is_glow",
    "parse_image_size",
    "port_of",
    "prior_arrays",
    "read_glow",
    "reference_of",
    "step_arrays",
    "weight_arrays",
]


def port_of(names: Iterable[str], file_name: str = "") -> Port | None:
    """Which port wrote the tensors of these names, if any."""
    names = list(names)
    if any(openai.OWN.match(name) for name in names):
        return "openai"
    plain = plain_names(file_name, names)
    found: Port
    for found, own in (
        ("rosinality", rosinality.OWN),
        ("chaiyujin", chaiyujin.OWN),
        ("y0ast", y0ast.OWN),
        ("normflows", normflows.OWN),
    ):
        if module_prefixes(plain, own):
            return found
    return None


def is_glow(names: Iterable[str]) -> bool:
    """Whether a checkpoint of these tensor names is one of GLOW."""
    return port_of(names) is not None


def read_glow(
    file: TensorFile,
    file_name: str,
    flags: GlowFlags | None = None,
    sidecars: Sequence[Sidecar] = (),
) -> GlowModel:
    """The model in a checkpoint; of its weights only flags are read.

    Args:
        file_name: for messages.
        flags: what the user says.
        sidecars: what lies beside the file.

    Raises:
        CheckpointError: damaged, incomplete, or of a kind that cannot be exported.
        UsageError: a flag is missing, or contradicts what the files say.
    """
    flags = flags or GlowFlags()
    port = port_of(file.tensors, file_name)
    if port == "openai":
        return openai.read(file, file_name, flags)
    if port == "rosinality":
        return rosinality.read(Tensors.of_module(file, file_name, rosinality.OWN), flags)
    if port == "normflows":
        return normflows.read(Tensors.of_module(file, file_name, normflows.OWN), flags)
    if port == "chaiyujin":
        return chaiyujin.read(Tensors.of_module(file, file_name, chaiyujin.OWN), flags, sidecars)
    if port == "y0ast":
        return y0ast.read(Tensors.of_module(file, file_name, y0ast.OWN), flags, sidecars)
    raise CheckpointError(f"{file_name}: not a GLOW checkpoint of a known port")
