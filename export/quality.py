"""Whole pictures and exact likelihoods: the numbers of an artifact that a person can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.bundle import Bundle
from ..runtime.engines.base import Engine
from ..runtime.flow import Flow
from ..runtime.images import from_uint8, max_abs_error, patchify, psnr_db, to_uint8, unpatchify
from ..runtime.likelihood import (
    NoiseChoice,
    add_training_noise,
    describe_convention,
    likelihood,
)
from ..runtime.manifest import EngineName, GoldenPicture, Quality
from ..runtime.pictures import read_labelled
from ..runtime.plan import Plan
from ..runtime.prepare import MODES
from .checkpoint import Checkpoint
from .parity import fresh_noise, refuse_bad_images
from .reference import reference_decode, reference_encode

Floats = npt.NDArray[np.float32]

NUM_PICTURES = 4  # decoded and compared with torch
NUM_DATA = 128  # real pictures for bits/dim
PICTURE_SEED = 1000
GOLDEN_PICTURES = ((1, 0.0), (2, 1.5))  # seed and guidance


class Judge:
    """Decodes the same noise and scores the same pictures with torch once, with engines often."""

    def __init__(self, checkpoint: Checkpoint, data: Path | None) -> None:
        config = checkpoint.config
        self.spec, var = config.flow_spec(), checkpoint.var()
        self.noise = fresh_noise(PICTURE_SEED, NUM_PICTURES, config.num_patches, config.patch_dim)
        classes = config.num_classes
        self.labels = [i % classes if classes else None for i in range(NUM_PICTURES)]
        patches = reference_decode(checkpoint, self.noise * np.sqrt(var), self.labels)
        self.images = unpatchify(patches, self.spec.image)
        self.data, self.data_labels, self.data_words = self._take_data(data)
        data_patches = patchify(self.data, self.spec.image)
        z, logdet = reference_encode(checkpoint, data_patches, self.data_labels)
        self.bits_per_dim = float(likelihood(z, logdet, var, "").bits_per_dim.mean())

    def _take_data(self, data: Path | None) -> tuple[Floats, list[int | None], str]:
        """Pictures for bits/dim with the training noise on them, labels, and words for both."""
        labels: list[int | None] = list(self.labels)
        if data is None:
            pictures, source = from_uint8(to_uint8(self.images)), "pictures of the model itself"
        else:
            pictures, found = read_labelled(data, self.spec.image, NUM_DATA)
            labels = list(found) if found is not None else [None] * len(pictures)
            source = f"pictures of {data.name}"
        training = self.spec.training_noise
        choice: NoiseChoice = "none" if training.kind == "unknown" else "train"
        if choice == "train":
            pictures = add_training_noise(pictures, training, seed=0)
        labelled = "labels given" if labels[0] is not None else "no labels"
        convention = describe_convention(training, choice)
        return pictures, labels, f"{len(pictures)} {source}, {labelled}; {convention}"

    def judge(self, bundle: Bundle, engine: Engine, quality: Quality) -> Quality:
        """Add what pictures and likelihoods say to a block-wise record.

        Raises:
            ParityError: the decoded images miss the precision's threshold.
        """
        flow = Flow(bundle, engine, Plan())
        images = flow.decode(self.noise, label=self.labels)
        error, psnr = max_abs_error(images, self.images), psnr_db(images, self.images)
        what = f"{quality.engine} {quality.precision}"
        refuse_bad_images(what, quality.precision, error, psnr)
        bits = float(flow.log_likelihood(self.data, label=self.data_labels).bits_per_dim.mean())
        return replace(
            quality,
            image_max_abs_error=error,
            psnr_db=psnr if np.isfinite(psnr) else None,
            bits_per_dim=bits,
            bits_per_dim_change=bits - self.bits_per_dim,
            bits_per_dim_inputs=self.data_words,
        )


def make_golden_pictures(
    bundle: Bundle, engine: Engine, root: Path, name: EngineName
) -> list[GoldenPicture]:
    """Generate the pictures that ``flowship verify`` makes again, as PNG files with recipes."""
    flow, pictures = Flow(bundle, engine, Plan()), []
    if bundle.spec.image.in_channels not in MODES:
        return []  # latents of another model: there is no picture to look at
    precision = engine.info.precision
    for seed, guidance in GOLDEN_PICTURES:
        label = seed % bundle.spec.num_classes if bundle.spec.num_classes else None
        if label is None and guidance:
            continue  # without classes guidance needs an attention temperature
        result = flow.generate(seed=seed, label=label, guidance=guidance)
        path = f"golden/{name}-{precision}-seed{seed}.png"
        (root / "golden").mkdir(exist_ok=True)
        result.save(root / path)
        pictures.append(GoldenPicture(path, name, precision, seed, label, guidance))
    return pictures
