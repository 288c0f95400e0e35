"""Pictures that were made, with the recipe that makes them again."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .atomic import atomic_file
from .events import Failed, Finished, not_finite
from .images import Bytes, Floats, to_uint8
from .outputs import ARRAYS, PICTURES, check_output, free_name
from .picture_formats import has_room, write_pictures
from .png import encode_png
from .recipe import Recipe


def finished(
    images: Floats, noise: Floats, recipe: Recipe, failed: Mapping[int, str], seconds: float
) -> Finished:
    """The last event of a run whose pictures ``failed`` are NaN.

    Raises:
        NonFiniteError: all of them are.
    """
    if not failed:
        return Finished(Generated(images, noise, recipe), seconds)
    bad = tuple(Failed(i, recipe.seeds[i], failed[i]) for i in sorted(failed))
    good = [i for i in range(len(images)) if i not in failed]
    if not good:
        raise not_finite(bad, len(images), kind=recipe.kind)
    seeds, labels = recipe.seeds, recipe.labels
    own = replace(
        recipe, seeds=tuple(seeds[i] for i in good), labels=tuple(labels[i] for i in good)
    )
    return Finished(Generated(images[good], noise[good], own), seconds, bad)


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
        """Write one file, by its suffix: a picture (a grid where there are several) or arrays.

        ``.png``, ``.jpg`` (quality 95) and ``.webp`` (lossless) carry the recipe, ``.npz`` holds
        images, noise, seeds, labels and the recipe, ``.npy`` the float32 images alone. A warning
        says where the recipe had no room.
        """
        kind = check_output(path, (*PICTURES, *ARRAYS), "path")
        if not has_room(kind, self.recipe, len(self), columns):
            warnings.warn(f"{path}: the recipe is not in it", stacklevel=2)
        return write_pictures(
            path, kind, self.images, self.recipe, columns=columns, noise=self.noise
        )

    def save_each(
        self, folder: str | os.PathLike[str], stems: Sequence[str] | None = None
    ) -> list[Path]:
        """Write a PNG for each picture into a folder, each with a recipe of its own.

        A file of that name stays: the new one is called NAME-1.png where it is another picture.

        Args:
            stems: names of the files without .png; None makes them of the seeds.
        """
        return [path for path, _ in self.saving_each(folder, stems)]

    def saving_each(
        self,
        folder: str | os.PathLike[str],
        stems: Sequence[str] | None = None,
        *,
        always_new: bool = False,
    ) -> Iterator[tuple[Path, Recipe]]:
        """The same, telling each path with its recipe.

        Args:
            always_new: also where the same picture lies there already.
        """
        stems = stems_of(self.recipe.bundle, self.recipe.seeds) if stems is None else stems
        for i, picture in enumerate(self.pictures()):
            seed, label = self.recipe.seeds[i], self.recipe.labels[i]
            recipe = replace(self.recipe, seeds=(seed,), labels=(label,))
            data = encode_png(picture[None], recipe)
            wanted = Path(folder, f"{stems[i]}.png")
            with free_name(wanted, None if always_new else data) as path, atomic_file(path) as file:
                file.write(data)
            yield path, recipe


def stems_of(bundle: str, seeds: Sequence[int]) -> list[str]:
    """A name for each picture; pictures of one seed are numbered."""
    times = Counter(seeds)
    return [f"{bundle}-{seed}" + f"-{i}" * (times[seed] > 1) for i, seed in enumerate(seeds)]
