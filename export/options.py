"""What an export can be told, known without torch, so that a wrong choice is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..runtime.errors import UsageError

Method = Literal["rtn", "gptq"]
ComputeUnits = Literal["all", "cpu-and-gpu", "cpu-and-ne", "cpu-only"]

MAX_NOISE_STD = 10.0  # the data has a standard deviation below 1
# Of each target, the best first.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8", "int4", "mixed"),
    "executorch": ("fp32", "fp16", "int8", "int4", "mixed"),
    "coreml": ("fp16", "int8", "int4", "pal8", "pal6", "pal4", "mixed"),
}
FLOATS = ("fp32", "fp16")  # all others are quantized
WITH_DENOISE = {"onnx": PRECISIONS["onnx"], "executorch": FLOATS, "coreml": ()}  # have such graphs


@dataclass(frozen=True)
class ConfigOverrides:
    """What the user says about a checkpoint that its shapes cannot.

    Attributes:
        in_channels: values per pixel, where the shapes leave it open.
        head_dim: width of an attention head (DEFAULT_HEAD_DIM unless said).
        noise_std: training noise; it goes before the file name, which rounds it to 0.01.
        label_names: a name for each class, in the order of their numbers.

    Raises:
        UsageError: a value that no model has.
    """

    in_channels: int | None = None
    head_dim: int | None = None
    noise_std: float | Literal["uniform"] | None = None
    label_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "head_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected 1 or more")
        std = self.noise_std
        if isinstance(std, str) and std != "uniform":
            raise UsageError(f"noise_std is {std!r}, expected a number or 'uniform'")
        if isinstance(std, (int, float)) and not 0 < std < MAX_NOISE_STD:
            raise UsageError(f"noise_std is {std}, expected more than 0 and less than 10")
        names = self.label_names or ()
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise UsageError(f"the label name {twice[0]!r} is there twice")


@dataclass(frozen=True)
class TargetOptions:
    """Choices that one target or another takes.

    Attributes:
        onnx_form: ``gqa`` or ``core`` (see targets/onnx/cached.py).
        onnx_kv_cache: of quantized precisions: ``float`` or ``int8``.
        windows: window lengths of static graphs; 1 is always among them.
        executorch_dynamic: one ExecuTorch method for every window instead of static ones.
        denoise: export the vector-Jacobian graphs where the model and the target have them.
        coreml_compute_units: which units Core ML packages are made for; it decides how they write
            their cache (see targets/coreml/cache.py).
    """

    onnx_form: Literal["gqa", "core"] = "gqa"
    onnx_kv_cache: Literal["float", "int8"] = "float"
    windows: tuple[int, ...] = (1, 8, 32)
    executorch_dynamic: bool = True
    denoise: bool = True
    coreml_compute_units: ComputeUnits = "cpu-and-gpu"

    def windows_up_to(self, num_patches: int) -> tuple[int, ...]:
        """The window lengths that fit a model of T patches, ascending, 1 included."""
        return tuple(sorted({1} | {w for w in self.windows if 1 <= w <= num_patches}))


@dataclass(frozen=True)
class SearchLimit:
    """What the mixture must keep; one of the two.

    Attributes:
        max_increase: of bits/dim on the steering pictures, kept by the upper end of its interval.
        max_bytes: of the quantized matrices.
    """

    max_increase: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.max_increase is None) == (self.max_bytes is None):
            raise UsageError(
                "say either the largest increase of bits/dim (--max-bpd-increase) or the largest "
                "size (--max-size)"
            )
        if self.max_increase is not None and not 0 <= self.max_increase < float("inf"):
            raise UsageError(f"the limit of bits/dim is {self.max_increase}, expected 0 or more")
