"""Classifier-free guidance on the affine parameters (xa, xb), as TarFlow's reference does it.

xa + g (xa - xa_u), and the same for xb, where the unconditional branch u uses the mean class row
and queries divided by the attention temperature. Annealed guidance grows with the patch number
i = 1..T-1 as g i / (T - 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .values import flag, real, word

Floats = npt.NDArray[np.float32]
GuideWhat = Literal["ab", "a", "b"]
GUIDE_WHAT: tuple[GuideWhat, ...] = get_args(GuideWhat)


@dataclass(frozen=True)
class Guidance:
    """How to guide.

    Attributes:
        scale: 0 is no guidance.
        what: ``a`` guides the scale xa, ``b`` the shift xb, ``ab`` both.
        annealed: the scale grows linearly over the patches.
        attn_temp: temperature of the unconditional branch's attention.

    Raises:
        UsageError: a value out of its range.
    """

    scale: float = 0.0
    what: GuideWhat = "ab"
    annealed: bool = False
    attn_temp: float = 1.0

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen for everybody else
        put(self, "scale", real(self.scale, "guidance"))
        put(self, "what", word(self.what, GUIDE_WHAT, "guide_what"))
        put(self, "annealed", flag(self.annealed, "annealed"))
        put(self, "attn_temp", real(self.attn_temp, "attn_temp"))
        if self.scale < 0:
            raise UsageError(f"guidance {self.scale:g} is not a number from 0 up")
        if self.attn_temp <= 0:
            raise UsageError(f"attn_temp {self.attn_temp:g} is not a number above 0")

    @property
    def branches(self) -> int:
        return 2 if self.scale > 0 else 1

    @property
    def scaled_queries(self) -> bool:
        return self.branches == 2 and self.attn_temp != 1.0

    @property
    def q_scale(self) -> Floats:
        """[branches] factor on the queries."""
        return np.array([1.0, 1.0 / self.attn_temp][: self.branches], np.float32)

    def weights(self, num_patches: int) -> Floats:
        """[T - 1, 1] guidance scale of the parameters that patch p = 0..T-2 gives."""
        steps = np.arange(1, num_patches, dtype=np.float64)[:, None]
        scale = steps / (num_patches - 1) * self.scale if self.annealed else steps * 0 + self.scale
        return scale.astype(np.float32)

    def combine(self, xa: Floats, xb: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """[branches, N, W, D] parameters and [W, 1] weights to guided [N, W, D] ones."""
        if self.branches == 1:
            return xa[0], xb[0]
        guided_a = _away(xa, weights) if "a" in self.what else xa[0]
        guided_b = _away(xb, weights) if "b" in self.what else xb[0]
        return guided_a, guided_b


def _away(values: Floats, weights: Floats) -> Floats:
    """values[0] + weights (values[0] - values[1]), with one allocation."""
    found: Floats = values[0] - values[1]
    found *= weights
    found += values[0]
    return found
