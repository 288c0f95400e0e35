"""Pictures that were made, with the recipe that makes them again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .images import Bytes, Floats, to_uint8
from .png import write_png
from .recipe import Recipe


@dataclass(frozen=True)
class Generated:
    """Result of Flow.generate().

    Attributes:
        images: [N, C, H, W] float32, not clipped; -1 is black and 1 is white.
        noise: [N, T, D] standard normal noise that they were made of.
        recipe: everything that is needed to make them again.
    """

    images: Floats
    noise: Floats
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.images)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Floats:
        return np.array(self.images, dtype)

    def pictures(self) -> Bytes:
        """[N, C, H, W] 8-bit pictures by the rule round((clip(x, -1, 1) + 1) * 127.5)."""
        return to_uint8(self.images)

    def save(self, path: str | os.PathLike[str], columns: int | None = None) -> Path:
        """Write one PNG, a grid where there are several pictures, with the recipe inside."""
        return write_png(path, self.pictures(), self.recipe, columns=columns)

    def save_each(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write a PNG for each picture into a folder, each with a recipe of its own."""
        paths = []
        for i, picture in enumerate(self.pictures()):
            seed, label = self.recipe.seeds[i], self.recipe.labels[i]
            recipe = replace(self.recipe, seeds=(seed,), labels=(label,))
            repeated = self.recipe.seeds.count(seed) > 1
            stem = f"{self.recipe.bundle}-{seed}" + (f"-{i}" if repeated else "")
            path = Path(folder) / f"{stem}.png"
            paths.append(write_png(path, picture[None], recipe))
        return paths
