"""TarFlow's hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....runtime.spec import (
    ARBlock,
    ClassConditioning,
    FlowSpec,
    ImageSpec,
    LatentSpec,
    TrainingNoise,
)

Floats = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]

LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class TarFlowConfig:
    """Hyper-parameters, in the reference's words.

    Attributes:
        nvp: False is the volume-preserving variant, whose prior has learned variances ``var``.
        expansion: width of the MLP over ``channels``.
        noise: training noise, from the file name or ``--noise-std``.
        class_names: empty, or one for each class.
    """

    in_channels: int
    img_size: int
    patch_size: int
    channels: int
    num_blocks: int
    layers_per_block: int
    num_classes: int
    nvp: bool
    head_dim: int
    expansion: int
    noise: TrainingNoise
    class_names: tuple[str, ...] = ()

    @property
    def num_patches(self) -> int:
        """T."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def patch_dim(self) -> int:
        """D: values in a patch."""
        return self.in_channels * self.patch_size**2

    @property
    def num_heads(self) -> int:
        return self.channels // self.head_dim

    @property
    def output_dim(self) -> int:
        """Width of proj_out: xa and xb, or xb alone."""
        return 2 * self.patch_dim if self.nvp else self.patch_dim

    @property
    def block_parameters(self) -> int:
        """Trainable parameters of one block, embedding tables included."""
        c, e = self.channels, self.expansion
        layer = 3 * c * c + 3 * c + c * c + c + 2 * e * c * c + e * c + c + 4 * c
        ends = c * self.patch_dim + c + self.output_dim * (c + 1)
        return layer * self.layers_per_block + ends + (self.num_patches + self.num_classes) * c

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the model (``var`` and the masks are buffers)."""
        return self.num_blocks * self.block_parameters

    def flow_spec(self) -> FlowSpec:
        """The torch-free description; stages run from the last block to the first."""
        blocks = tuple(
            ARBlock(
                kind="ar_block",
                name=f"block{b}",
                block=b,
                channels=self.channels,
                num_layers=self.layers_per_block,
                num_heads=self.num_heads,
                head_dim=self.head_dim,
                permutation="flip" if b % 2 else "identity",
                scale="exp" if self.nvp else "none",
            )
            for b in reversed(range(self.num_blocks))
        )
        conditioning = None
        if self.num_classes:
            conditioning = ClassConditioning("class", self.num_classes, self.class_names)
        return FlowSpec(
            family="tarflow",
            image=ImageSpec(self.img_size, self.in_channels, self.patch_size, self.num_patches),
            latents=(LatentSpec("z", (self.num_patches, self.patch_dim), "scaled_normal"),),
            stages=blocks,
            conditioning=conditioning,
            guidance="linear_ab",
            denoise="tweedie" if self.noise.kind == "gaussian" else None,
            training_noise=self.noise,
        )
