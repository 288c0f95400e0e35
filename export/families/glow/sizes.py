"""What the ports have in common: channels that grow from level to level, halves, rules."""

from __future__ import annotations

from dataclasses import dataclass

from ....runtime.errors import CheckpointError
from .flags import GlowFlags, settled
from .model import (
    EightBit,
    LevelSpec,
    OwnNumber,
    PixelRules,
    PriorSpec,
    ScaleMap,
    StepSpec,
)
from .tensors import Shape, Tensors


@dataclass(frozen=True)
class StepShape:
    """What the tensors of a step say.

    Attributes:
        lu: its 1x1 convolution is decomposed; None where none is stored.
    """

    width: int
    affine: bool
    lu: bool | None


def input_channels(file_name: str, name: str, channels: int) -> int:
    """Of the pictures, from the channels of the finest level."""
    if channels % 4:
        raise CheckpointError(
            f"{file_name}: {name} has {channels} channels, expected a multiple of 4: the finest "
            "level squeezes 2 x 2 pixels into channels"
        )
    return channels // 4


def level_channels(in_channels: int, level: int) -> int:
    """Of the steps of a level; 0 is the finest."""
    return in_channels * 4 << level


def equal_depth(tensors: Tensors, prefixes: list[str], separator: str = ".") -> int:
    """Steps of a level, in ports where all have as many.

    Raises:
        CheckpointError: one has fewer.
    """
    counts = [tensors.count(prefix, separator) for prefix in prefixes]
    for prefix, count in zip(prefixes, counts, strict=True):
        if count < max(counts):
            raise CheckpointError(
                f"{tensors.file_name}: {prefix}{count} is missing, other levels have {max(counts)} "
                "steps"
            )
    return max(counts)


def halves(file_name: str, name: str, shape: Shape, channels: int) -> int:
    """Width of a network whose first convolution has this shape.

    Raises:
        CheckpointError: it does not take the first half of an even number of channels.
    """
    if channels % 2:
        raise CheckpointError(
            f"{file_name}: {name} belongs to a step of {channels} channels, which have no halves"
        )
    if shape[1] == channels:
        raise CheckpointError(
            f"{file_name}: {name} takes all {channels} channels: a checkerboard split, only splits "
            "into halves of the channels can be exported"
        )
    if shape[1] != channels // 2:
        raise CheckpointError(
            f"{file_name}: {name} takes {shape[1]} channels, expected {channels // 2}: half of the "
            f"{channels} of its step"
        )
    return shape[0]


def is_affine(file_name: str, name: str, rows: int, channels: int) -> bool:
    """Whether a coupling scales, by the rows of its last convolution."""
    if rows not in (channels, channels // 2):
        raise CheckpointError(
            f"{file_name}: {name} has {rows} rows, expected {channels} (affine) or "
            f"{channels // 2} (additive) for a step of {channels} channels"
        )
    return rows == channels


def level_specs(
    size: tuple[int, int],
    in_channels: int,
    steps: list[list[StepShape]],
    priors: list[PriorSpec],
    scale_map: ScaleMap = "sigmoid",
) -> tuple[LevelSpec, ...]:
    """The levels, from the finest to the top."""
    return tuple(
        LevelSpec(
            channels=level_channels(in_channels, i),
            height=size[0] >> (i + 1),
            width=size[1] >> (i + 1),
            steps=tuple(StepSpec(s.width, scale_map if s.affine else "none") for s in level),
            prior=prior,
        )
        for i, (level, prior) in enumerate(zip(steps, priors, strict=True))
    )


def described(port: str, steps: list[list[StepShape]], in_channels: int) -> str:
    """What the shapes say, for the question about what they do not say."""
    counts = sorted({len(level) for level in steps})
    depth = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    kinds = {shape.affine for level in steps for shape in level}
    kind = "affine" if kinds == {True} else "additive" if kinds == {False} else "mixed"
    channels = f"{in_channels} channel{'s' * (in_channels > 1)}"
    return f"a GLOW of {port} with {len(steps)} levels of {depth} {kind} steps for {channels}"


# ---- what is fixed in a port's code ------------------------------------------------------------


def settle_fixed(
    file_name: str,
    port: str,
    flags: GlowFlags,
    *,
    n_bits: int | None = None,
    shifted: bool | None = None,
    scale_map: str | None = "sigmoid",
    slope: bool = True,
    moving_averages: bool = False,
) -> None:
    """Flags that have no effect on a port must agree with what its code does.

    Args:
        n_bits: None where the flag decides, as ``shifted`` and ``scale_map``.
        slope: the port has plain relu.
        moving_averages: its files may hold them.
    """
    always = f"{port} always has"
    if n_bits is not None:
        settled(file_name, "--n-bits", flags.n_bits, n_bits, f"{always} {n_bits}")
    if shifted is not None:
        where = "[-0.5, 0.5]" if shifted else "[0, 1]"
        settled(file_name, "--data-shift", flags.data_shift, shifted, f"{always} data in {where}")
    if scale_map is not None:
        settled(file_name, "--scale-map", flags.scale_map, scale_map, f"{always} {scale_map}")
    if slope:
        settled(file_name, "--leaky-slope", flags.leaky_slope, 0.0, f"{always} relu")
    if not moving_averages:
        settled(file_name, "--weights", flags.weights, "plain", f"{port} saves no moving averages")


def uniform_bits(n_bits: int, eight_bit: EightBit) -> PixelRules:
    """Data in [-0.5, 0.5] of 2^n levels, with uniform noise of a level's width."""
    levels = float(1 << n_bits)
    return PixelRules(-0.5, 0.5, n_bits, levels, "uniform", 1.0, 1 / levels, eight_bit)


def per_pixel(name: str, in_channels: int) -> OwnNumber:
    """Bits per pixel that count the 8 bits of a level once a pixel, not once a value."""
    return OwnNumber(name, "bits per pixel", float(in_channels), 8.0 - 8.0 * in_channels)
