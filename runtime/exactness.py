"""Whether windows make the pictures of sequential sampling, as an engine and precision round.

In float32 they do: the tolerance lies far below one of 255 levels. Where an engine computes in
float16 it cannot (rounding alone moves patches by more), and kernels of quantized weights may round
in another way in longer windows. Only pictures tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .convergence import profile_guidance
from .decoder import Decoding
from .flow import draw_noise
from .guidance import Guidance
from .images import Bytes, to_uint8, unpatchify
from .model import Model
from .plan import Plan

MIN_EQUAL, MAX_LEVELS = 0.999, 1  # what windowed sampling promises
TRIES = 2  # windows of a block that are tried before it stays sequential

Tell = Callable[[float], None]


@dataclass(frozen=True)
class Difference:
    """8-bit values of windowed pictures against those of sequential sampling.

    Attributes:
        guided: with guidance or without.
        windows: by stage; the other blocks were sequential in both.
        pictures: how many were compared.
        equal: share of the values that are equal.
        levels: the largest difference, of 255.
    """

    guided: bool
    windows: dict[str, int]
    pictures: int
    equal: float
    levels: int

    @property
    def passed(self) -> bool:
        return self.equal >= MIN_EQUAL and self.levels <= MAX_LEVELS


class SequentialPictures:
    """Pictures of one kind by sequential sampling, made once, to compare windowed ones with.

    They do not depend on the number of threads, so any engine of the same precision may ask.

    Args:
        guided: make them with guidance.
        count: how many.
    """

    def __init__(self, guided: bool, count: int) -> None:
        self.guided, self.count = guided, count
        self.found: dict[tuple[tuple[str, int], ...], Difference] = {}
        self._sequential: Bytes | None = None

    def compare(
        self, model: Model, plan: Plan, windows: Mapping[str, int], tell: Tell = lambda done: None
    ) -> Difference:
        """Make the pictures with these windows by stage, and the plan's tolerance.

        Args:
            tell: called with the fraction done.
        """
        key = tuple(sorted(windows.items()))
        if key not in self.found:
            if self._sequential is None:
                self._sequential = self._make(model, Plan(), lambda done: tell(done / 2))
            own = Plan(dict(windows), dict(windows), plan.tolerance, plan.min_committed)
            pictures = self._make(model, own, lambda done: tell((1 + done) / 2))
            off = np.abs(pictures.astype(int) - self._sequential)
            equal, levels = float((off == 0).mean()), int(off.max())
            self.found[key] = Difference(self.guided, dict(windows), self.count, equal, levels)
        return self.found[key]

    def _make(self, model: Model, plan: Plan, tell: Tell) -> Bytes:
        spec = model.bundle.spec
        guidance = profile_guidance(spec) if self.guided else Guidance()
        classes, T = spec.num_classes, spec.image.num_patches
        labels = [i % classes if classes else None for i in range(self.count)]
        noise = draw_noise(range(self.count), spec) * np.sqrt(model.bundle.variances)
        decoding = Decoding(model, noise, labels, guidance, plan)
        for at in decoding.run():
            done = at.number + (at.first + at.together * at.patches / T) / self.count
            tell(done / len(spec.ar_blocks))
        return to_uint8(unpatchify(decoding.state, spec.image))


def exact_windows(
    compare: Callable[[Mapping[str, int]], Difference], wanted: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """The best windows by stage that pass together; a stage for which none does is left out.

    Args:
        compare: makes pictures with windows by stage.
        wanted: windows of each stage, the best first.
    """
    chosen = {stage: windows[0] for stage, windows in wanted.items() if windows}
    if not chosen or compare(chosen).passed:
        return chosen
    alone: dict[str, Difference] = {}
    for stage in list(chosen):
        for window in wanted[stage][:TRIES]:
            chosen[stage], alone[stage] = window, compare({stage: window})
            if alone[stage].passed:
                break
        else:
            del chosen[stage]
    while chosen and not compare(chosen).passed:  # small differences add up
        del chosen[max(chosen, key=lambda stage: (alone[stage].levels, -alone[stage].equal))]
    return chosen
