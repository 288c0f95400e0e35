"""Whole pictures and exact likelihoods: the numbers of an artifact that a person can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.bundle import Bundle
from ..runtime.engines.base import Engine
from ..runtime.flow import Flow
from ..runtime.hashing import sha256_bytes
from ..runtime.images import max_abs_error, psnr_db, psnr_db_median, unpatchify
from ..runtime.manifest import EngineName, Golden, GoldenPicture, Quality
from ..runtime.normal import normals
from ..runtime.plan import Plan
from ..runtime.prepare import MODES
from ..runtime.spec import FlowSpec
from .checkpoint import Checkpoint
from .parity import fresh_noise, refuse_bad_images
from .quantize.data import PictureSet, own_pictures
from .quantize.likelihood import bits_per_dim, paired_change
from .reference import reference_decode

Floats = npt.NDArray[np.float32]

GOLDEN_NOISE_SEED = 0x0123456789ABCDEF
NUM_PICTURES = 8  # decoded and compared with torch
NUM_DATA = 128  # real pictures for bits/dim where none are needed to steer quantization
PICTURE_SEED = 1000
GOLDEN_PICTURES = ((1, 0.0), (2, 1.5))  # seed and guidance


class Judge:
    """Decodes the same noise and scores the same pictures with torch once, with engines often.

    Args:
        pictures: for bits/dim; None takes those that are decoded.
    """

    def __init__(self, checkpoint: Checkpoint, pictures: PictureSet | None) -> None:
        config = checkpoint.config
        self.spec, var = config.flow_spec(), checkpoint.var()
        self.noise = fresh_noise(PICTURE_SEED, NUM_PICTURES, config.num_patches, config.patch_dim)
        self.z = self.noise * np.sqrt(var)
        classes = config.num_classes
        self.labels = tuple(i % classes if classes else None for i in range(NUM_PICTURES))
        patches = reference_decode(checkpoint, self.z, self.labels)
        self.images = unpatchify(patches, self.spec.image)
        if pictures is None:
            pictures = own_pictures(self.spec, self.images, self.labels)
        self.pictures, self.data = pictures, unpatchify(pictures.patches, self.spec.image)
        self.reference = bits_per_dim(checkpoint, pictures, lambda s: checkpoint.block(s.block))

    def judge(self, bundle: Bundle, engine: Engine, quality: Quality) -> Quality:
        """Add what pictures and likelihoods say to a block-wise record.

        Raises:
            ParityError: the decoded images miss the precision's threshold.
        """
        flow, labels = Flow(bundle, engine, Plan()), list(self.labels)
        images = flow.decode(self.noise, label=labels)
        error, psnr = max_abs_error(images, self.images), psnr_db(images, self.images)
        middle = psnr_db_median(images, self.images)
        refuse_bad_images(quality.engine, quality.precision, error, psnr, middle)
        z, _ = flow.encode(images, label=labels)
        bits = flow.log_likelihood(self.data, label=list(self.pictures.labels)).bits_per_dim
        change = paired_change(bits, self.reference) if len(bits) > 1 else None
        return replace(
            quality,
            image_max_abs_error=error,
            psnr_db=psnr if np.isfinite(psnr) else None,
            psnr_db_median=middle if np.isfinite(middle) else None,
            round_trip_error=max_abs_error(z, self.z),
            bits_per_dim=float(bits.mean()),
            bits_per_dim_change=float(bits.mean() - self.reference.mean()),
            bits_per_dim_change_low=change.low if change else None,
            bits_per_dim_change_high=change.high if change else None,
            bits_per_dim_inputs=f"{len(self.pictures)} {self.pictures.words}",
        )


def golden_noise(spec: FlowSpec) -> Golden:
    """The noise that every engine and language draws alike, by its hash."""
    T, D = spec.latents[0].shape
    noise = normals(GOLDEN_NOISE_SEED, T * D)
    return Golden(GOLDEN_NOISE_SEED, sha256_bytes(noise.astype("<f4").tobytes()))


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
