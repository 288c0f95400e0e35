"""What only the user can say of a checkpoint, and whether it goes with what the files say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ....runtime.errors import CheckpointError, UsageError

SCALE_MAPS = ("sigmoid", "exp", "sigmoid_inv")
MAX_SIDE = 1 << 13
Value = TypeVar("Value")


@dataclass(frozen=True)
class GlowFlags:
    """Options of ``flowship export``; None is unsaid.

    Attributes:
        image_size: (height, width).
        n_bits: of the pictures that it was trained on.
        scale_map: of affine couplings.
        leaky_slope: of the activations in the networks; 0 is relu.
        data_shift: whether 0.5 is subtracted from pictures in [0, 1].
        weights: the trained ones or their moving averages.
    """

    image_size: tuple[int, int] | None = None
    n_bits: int | None = None
    scale_map: str | None = None
    leaky_slope: float | None = None
    data_shift: bool | None = None
    weights: Literal["plain", "ema"] | None = None

    def __post_init__(self) -> None:
        if self.image_size and not all(1 <= side <= MAX_SIDE for side in self.image_size):
            raise UsageError(
                f"--image-size {shown(self.image_size)}: expected sides of 1 to {MAX_SIDE} pixels"
            )
        if self.n_bits is not None and not 1 <= self.n_bits <= 8:
            raise UsageError(f"--n-bits {self.n_bits}: expected 1 to 8")
        if self.scale_map is not None and self.scale_map not in SCALE_MAPS:
            raise UsageError(f"--scale-map {self.scale_map}: choose from {', '.join(SCALE_MAPS)}")
        if self.leaky_slope is not None and not 0 <= self.leaky_slope <= 1:
            raise UsageError(f"--leaky-slope {self.leaky_slope}: expected 0 (relu) to 1")
        if self.weights not in (None, "plain", "ema"):
            raise UsageError(f"--weights {self.weights}: choose from plain, ema")


def parse_image_size(text: str) -> tuple[int, int]:
    """``64x48`` (height x width), or one number for a square.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip().lower())
    if not match:
        raise UsageError(f"--image-size {text!r}: expected HEIGHTxWIDTH or one number")
    return int(match[1]), int(match[2] or match[1])


def shown(value: Any) -> str:
    """A flag's value as it is written on the command line."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settled(file_name: str, flag: str, said: Value | None, known: Value, why: str) -> Value:
    """``known``, which the user may repeat but not contradict.

    Args:
        why: how it is known, as in "the weights say 32x32".

    Raises:
        UsageError: the flag says otherwise.
    """
    wrong = said is not None and said != known
    if wrong and isinstance(said, float) and isinstance(known, (int, float)):
        wrong = not math.isclose(said, known, rel_tol=1e-6)
    if wrong:
        raise UsageError(f"{file_name}: {flag} {shown(said)} cannot be: {why}")
    return known


def require(file_name: str, what: str, open_questions: Sequence[tuple[str, bool]]) -> None:
    """Ask for all flags that are missing at once.

    Args:
        what: what is known of the checkpoint.
        open_questions: (flag with what it takes, whether it was said).

    Raises:
        UsageError: one of them was not.
    """
    if missing := [flag for flag, said in open_questions if not said]:
        raise UsageError(
            f"{file_name}: {what}; what its file does not say has to be said: " + ", ".join(missing)
        )


def check_image_size(file_name: str, size: tuple[int, int], num_levels: int) -> tuple[int, int]:
    """The size, if ``num_levels`` levels can halve it.

    Raises:
        CheckpointError: they cannot, or it is out of all reason.
    """
    if max(size) > MAX_SIDE:
        raise CheckpointError(f"{file_name}: pictures of {shown(size)}, at most {MAX_SIDE} a side")
    factor = 1 << num_levels
    if any(side % factor or not side for side in size):
        raise CheckpointError(
            f"{file_name}: pictures of {shown(size)} are not multiples of {factor}, as "
            f"{num_levels} levels need: say the right --image-size"
        )
    return size
