"""FlowSpec: what a normalizing flow is, as JSON and without torch.

A flow is a list of stages in the order of generation (latent to image). TarFlow has one kind,
``ar_block``; the other kinds are there so that GLOW, DenseFlow, MaCow and STARFlow fit the same
schema: ``parallel`` (one graph, one call) and ``row_loop`` (one call for each row or column).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

# Nothing that is published comes near these; they keep a hostile manifest from asking for memory.
MAX_PATCHES, MAX_CHANNELS, MAX_LAYERS, MAX_STAGES = 1 << 16, 1 << 15, 256, 256
MAX_IMG_SIZE, MAX_CLASSES = 1 << 13, 1 << 20


def _check_range(name: str, value: int, high: int) -> None:
    if not 1 <= value <= high:
        raise ValueError(f"{name} is {value}, expected 1 to {high}")


@dataclass(frozen=True)
class ImageSpec:
    """A square image and how it is cut into patches.

    Attributes:
        img_size: height and width in pixels.
        in_channels: 1 is grey, 3 is RGB.
        patch_size: height and width of a patch in pixels; patches are numbered row by row.
        num_patches: T = (img_size / patch_size)^2.
        patch_order: order of the D values of a patch; ``c_ph_pw`` is channel, row, column.
        value_map: ``pm1`` maps black to -1 and white to 1.
        rule_8bit: ``clip_round`` is round((clip(x, -1, 1) + 1) * 127.5).
    """

    img_size: int
    in_channels: int
    patch_size: int
    num_patches: int
    patch_order: Literal["c_ph_pw"] = "c_ph_pw"
    value_map: Literal["pm1"] = "pm1"
    rule_8bit: Literal["clip_round"] = "clip_round"

    def __post_init__(self) -> None:
        _check_range("img_size", self.img_size, MAX_IMG_SIZE)
        _check_range("in_channels", self.in_channels, 64)
        _check_range("patch_size", self.patch_size, self.img_size)
        _check_range("num_patches", self.num_patches, MAX_PATCHES)
        if (self.img_size // self.patch_size) ** 2 != self.num_patches or (
            self.img_size % self.patch_size
        ):
            raise ValueError(
                f"img_size {self.img_size} in patches of {self.patch_size} are not "
                f"num_patches {self.num_patches}"
            )

    @property
    def patch_dim(self) -> int:
        """D: values in a patch."""
        return self.in_channels * self.patch_size**2

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.in_channels, self.img_size, self.img_size)


@dataclass(frozen=True)
class LatentSpec:
    """One Gaussian input. ``scaled_normal`` has the variances of the array ``var``."""

    name: str
    shape: tuple[int, ...]
    prior: Literal["standard_normal", "scaled_normal"]

    def __post_init__(self) -> None:
        _check_range("number of latent axes", len(self.shape), 8)
        for size in self.shape:
            _check_range("latent axis", size, 1 << 32)


@dataclass(frozen=True)
class ARBlock:
    """An autoregressive block: each patch is an affine function of the patches before it.

    Attributes:
        name: its name in artifacts and arrays.
        block: its number in the model, 0 is next to the image.
        channels, num_layers, num_heads, head_dim: its causal transformer.
        permutation: order of the patches inside the block.
        shift: ``copy_first`` leaves the first patch as it is (TarFlow); ``sos`` transforms it too.
        scale: ``exp`` multiplies by exp(xa); ``none`` only adds xb (volume preserving).
        guided: guidance acts on this block.
    """

    kind: Literal["ar_block"]
    name: str
    block: int
    channels: int
    num_layers: int
    num_heads: int
    head_dim: int
    permutation: Literal["identity", "flip"]
    shift: Literal["copy_first", "sos"] = "copy_first"
    scale: Literal["exp", "none", "softplus"] = "exp"
    guided: bool = True

    def __post_init__(self) -> None:
        _check_range("channels", self.channels, MAX_CHANNELS)
        _check_range("num_layers", self.num_layers, MAX_LAYERS)
        _check_range("num_heads", self.num_heads, self.channels)
        if self.num_heads * self.head_dim != self.channels:
            raise ValueError(
                f"{self.num_heads} heads of {self.head_dim} are not {self.channels} channels"
            )


@dataclass(frozen=True)
class ParallelStage:
    """A stage that one call of one graph inverts (GLOW, DenseFlow)."""

    kind: Literal["parallel"]
    name: str


@dataclass(frozen=True)
class RowLoop:
    """A stage that is inverted row by row or column by column (MaCow)."""

    kind: Literal["row_loop"]
    name: str
    axis: Literal["row", "column"]
    reverse: bool = False


@dataclass(frozen=True)
class ClassConditioning:
    """Class labels 0 to num_classes - 1; without a label the mean of all class rows is used."""

    kind: Literal["class"]
    num_classes: int
    class_names: tuple[str, ...] = ()
    null: Literal["mean"] = "mean"

    def __post_init__(self) -> None:
        _check_range("num_classes", self.num_classes, MAX_CLASSES)
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")


@dataclass(frozen=True)
class TextConditioning:
    """A text prompt (STARFlow)."""

    kind: Literal["text"]
    encoder: str
    max_tokens: int


@dataclass(frozen=True)
class TrainingNoise:
    """Noise that was added to the 8-bit training pictures.

    ``gaussian``: standard deviation ``std`` on the [-1, 1] scale. ``uniform``: one of 256 levels.
    ``unknown``: neither the file name nor ``--noise-std`` said.
    """

    kind: Literal["gaussian", "uniform", "unknown"]
    std: float | None = None

    def __post_init__(self) -> None:
        if (self.kind == "gaussian") != (self.std is not None):
            raise ValueError(f"training noise {self.kind!r} with std {self.std}")
        if self.std is not None and self.std <= 0:
            raise ValueError(f"training noise with std {self.std}, expected more than 0")


@dataclass(frozen=True)
class FlowSpec:
    """A normalizing flow: image, latents, stages in the order of generation, and its rules."""

    family: str
    image: ImageSpec
    latents: tuple[LatentSpec, ...]
    stages: tuple[ARBlock | ParallelStage | RowLoop, ...]
    conditioning: ClassConditioning | TextConditioning | None
    guidance: Literal["linear_ab"] | None
    denoise: Literal["tweedie"] | None
    training_noise: TrainingNoise

    def __post_init__(self) -> None:
        _check_range("number of stages", len(self.stages), MAX_STAGES)
        if len({stage.name for stage in self.stages}) != len(self.stages):
            raise ValueError("two stages have the same name")
        if self.denoise and self.training_noise.kind != "gaussian":
            raise ValueError("denoising needs Gaussian training noise")
        dims = prod(self.image.shape)
        if sum(prod(latent.shape) for latent in self.latents) != dims:
            raise ValueError(f"the latents do not have the image's {dims} dimensions")

    @property
    def ar_blocks(self) -> tuple[ARBlock, ...]:
        """The autoregressive blocks in the order of generation."""
        return tuple(stage for stage in self.stages if isinstance(stage, ARBlock))

    @property
    def num_classes(self) -> int:
        """0 for a model without class labels."""
        kind = self.conditioning
        return kind.num_classes if isinstance(kind, ClassConditioning) else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        kind = self.conditioning
        return kind.class_names if isinstance(kind, ClassConditioning) else ()
