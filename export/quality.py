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
from ..runtime.likelihood import add_training_noise, describe_convention, likelihood
from ..runtime.manifest import EngineName, GoldenPicture, Quality
from ..runtime.pictures import read_labelled
from ..runtime.plan import Plan
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
        self.spec = config.flow_spec()
        T, D = config.num_patches, config.patch_dim
        self.noise = fresh_noise(PICTURE_SEED, NUM_PICTURES, T, D)
        self.labels = [i % config.num_classes if config.num_classes else None for i in range(4)]
        var = checkpoint.var()
        patches = reference_decode(checkpoint, self.noise * np.sqrt(var), self.labels)
        self.images = unpatchify(patches, self.spec.image)
        if data is None:
            pictures: Floats = from_uint8(to_uint8(self.images))
            self.data_labels, source = self.labels, "pictures that the model itself generated"
        else:
            pictures, found = read_labelled(data, self.spec.image, NUM_DATA)
            self.data_labels = list(found) if found is not None else [None] * len(pictures)
            source = f"pictures of {data.name}"
        training = self.spec.training_noise
        self.noise_choice = "none" if training.kind == "unknown" else "train"
        if training.kind != "unknown":
            pictures = add_training_noise(pictures, training, seed=0)
        self.data = pictures
        convention = describe_convention(training, "train" if training.kind != "unknown" else "none")
        labelled = "labels given" if self.data_labels[0] is not None else "no labels"
        self.data_words = f"{len(pictures)} {source}, {labelled}; {convention}"
        z, logdet = reference_encode(checkpoint, patchify(pictures, self.spec.image), self.data_labels)
        self.bits_per_dim = float(likelihood(z, logdet, var, "").bits_per_dim.mean())

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

