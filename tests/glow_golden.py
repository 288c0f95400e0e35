"""GLOW models with the arrays that their ports compute (golden/glow)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from glow_checkpoints import Graphs, open_glow
from torch import Tensor

from flowship.export.families.glow import CONDITION, GlowFlags, GlowModel

GOLDEN = Path(__file__).parent / "golden" / "glow"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    graphs: Graphs
    arrays: dict[str, npt.NDArray[Any]]

    @property
    def model(self) -> GlowModel:
        return self.graphs.model

    def latents(self, suffix: str = "") -> list[Tensor]:
        """The finest first; normflows counts from the top."""
        last = len(self.model.config.levels) - 1
        order = [last - i if self.model.config.port == "normflows" else i for i in range(last + 1)]
        return [torch.from_numpy(self.arrays[f"eps{i}{suffix}"]) for i in order]

    @property
    def labels(self) -> list[int] | None:
        found = self.arrays.get("labels")
        return None if found is None else [int(label) for label in found]

    @property
    def data(self) -> Tensor:
        """Pictures with their noise, by the port's rules."""
        rules = self.model.config.pixels
        grey = np.floor(self.arrays["image"] / 2.0 ** (8 - rules.n_bits)) / rules.divisor
        return torch.from_numpy(rules.low + grey + rules.noise_scale * self.arrays["dequant"])

    def inputs(self, temperature: float) -> dict[str, Floats]:
        """Of the decode graph."""
        latents = enumerate(self.latents())
        return {f"eps{i}": (temperature * e).numpy() for i, e in latents} | self.condition

    @property
    def condition(self) -> dict[str, Floats]:
        """The one-hot rows of a conditional model's graphs."""
        if self.labels is None:
            return {}
        return {CONDITION: np.eye(self.model.config.num_classes, dtype=np.float32)[self.labels]}


@lru_cache
def golden_glow(name: str) -> Golden:
    folder = GOLDEN / name
    facts = json.loads((folder / "facts.json").read_text())
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    model = open_glow(folder / facts["checkpoint"], _flags(facts))
    return Golden(Graphs(model, torch.float32), arrays)


def _flags(facts: dict[str, Any]) -> GlowFlags:
    """What the port saves nowhere."""
    size, port = tuple(facts["image_size"]), facts["port"].split("/")[0]
    if port in ("rosinality", "openai"):
        return GlowFlags(image_size=size, n_bits=facts["n_bits"])
    if port == "normflows":
        return GlowFlags(
            image_size=size,
            scale_map=facts["scale_map"],
            leaky_slope=facts["leaky"],
            data_shift=facts["shift"],
        )
    return GlowFlags()
