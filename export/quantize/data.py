"""The pictures that steer quantization and, apart from them, those that judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.errors import UsageError
from ...runtime.images import from_uint8, patchify, to_uint8, unpatchify
from ...runtime.labels import resolve_labels
from ...runtime.likelihood import NoiseChoice, add_training_noise, describe_convention
from ...runtime.pictures import read_labelled
from ...runtime.spec import FlowSpec
from ..checkpoint import Checkpoint
from ..parity import fresh_noise
from ..reference import reference_decode

Floats = npt.NDArray[np.float32]

MAX_PICTURES = 512  # of a data set; each half then gives bits/dim changes to about 0.0005
OWN_PICTURES = 16  # that the model makes where there are none: patch by patch, so they take time
_OWN_SEED = 2000


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures as the model saw them in training, noise included.

    Attributes:
        patches: [N, T, D] in image order.
        labels: N of them; None is no label.
        words: where they come from and what bits/dim of them means.
    """

    patches: Floats
    labels: tuple[int | None, ...]
    words: str

    def __len__(self) -> int:
        return len(self.patches)

    @cached_property
    def sha256(self) -> str:
        """Of patches and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.patches).data)
        digest.update(repr((self.patches.shape, self.labels)).encode())
        return digest.hexdigest()

    def halves(self) -> tuple[PictureSet, PictureSet]:
        """The pictures of even number, which steer, and those of odd number, which judge.

        Raises:
            UsageError: fewer than 4 pictures, too few for an interval in each half.
        """
        if len(self) < 4:
            raise UsageError(
                f"{len(self)} pictures ({self.words}): expected at least 4, of which half steer "
                "the quantization and half judge it"
            )
        return self._every_second(0), self._every_second(1)

    def first(self, count: int) -> PictureSet:
        """The first ``count`` pictures, or all."""
        return PictureSet(self.patches[:count], self.labels[:count], self.words)

    def _every_second(self, start: int) -> PictureSet:
        return PictureSet(self.patches[start::2], self.labels[start::2], self.words)


def read_pictures(
    checkpoint: Checkpoint, data: Path | None, *, limit: int = MAX_PICTURES, own: int = OWN_PICTURES
) -> PictureSet:
    """The user's pictures, or some that the model makes.

    Args:
        data: a folder, ``.npy`` or ``.npz``; None lets the model generate.
        limit: of pictures read from ``data``.
        own: pictures to generate.

    Raises:
        UsageError: the data cannot be read or does not fit the model.
        CheckpointError: the model does not generate finite pictures.
    """
    spec = checkpoint.config.flow_spec()
    if data is None:
        return own_pictures(spec, *_generate(checkpoint, own))
    pictures, found = read_labelled(data, spec.image, limit)
    try:
        labels = resolve_labels(found, spec, len(pictures))
    except UsageError as error:
        raise UsageError(f"{data}: {error}") from error
    return _with_noise(spec, pictures, labels, f"pictures of {data.name}")


def own_pictures(spec: FlowSpec, images: Floats, labels: Sequence[int | None]) -> PictureSet:
    """Pictures [N, C, H, W] that the model made, as they would be read from 8-bit files."""
    words = "pictures of the model itself"
    return _with_noise(spec, from_uint8(to_uint8(images)), tuple(labels), words)


def _with_noise(
    spec: FlowSpec, pictures: Floats, labels: tuple[int | None, ...], source: str
) -> PictureSet:
    training = spec.training_noise
    choice: NoiseChoice = "none" if training.kind == "unknown" else "train"
    if choice == "train":
        pictures = add_training_noise(pictures, training, seed=0)
    labelled = "labels given" if labels and labels[0] is not None else "no labels"
    words = f"{source}, {labelled}; {describe_convention(training, choice)}"
    return PictureSet(patchify(pictures, spec.image), labels, words)


def _generate(checkpoint: Checkpoint, count: int) -> tuple[Floats, tuple[int | None, ...]]:
    """[N, C, H, W] and labels, all classes in turn."""
    config = checkpoint.config
    classes = config.num_classes
    labels = tuple(i % classes if classes else None for i in range(count))
    noise = fresh_noise(_OWN_SEED, count, config.num_patches, config.patch_dim)
    patches = reference_decode(checkpoint, noise * np.sqrt(checkpoint.var()), labels)
    return unpatchify(patches, config.flow_spec().image), labels
