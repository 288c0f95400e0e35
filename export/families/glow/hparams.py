"""The hparams.json of the ports that have one: what it answers, and what it may not contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....runtime.errors import CheckpointError
from ...sources.sidecars import Sidecar
from .flags import GlowFlags, check_image_size, settled, shown
from .layout import Layout
from .tensors import Tensors

Hparams = tuple[str, Mapping[str, Any]]
"""Name of the file, and the part of it that is about the network."""


def hparams_of(found: Sequence[Sidecar], section: str | None) -> Hparams | None:
    """The first sidecar whose ``section`` says the permutation."""
    for sidecar in found:
        values = sidecar.values if section is None else sidecar.values.get(section)
        if isinstance(values, Mapping) and "flow_permutation" in values:
            return sidecar.name, values
    return None


def check_permutation(tensors: Tensors, layout: Layout, hparams: Hparams | None) -> None:
    """A 1x1 convolution is stored, or what stands for it is known."""
    name = tensors.file_name
    stored = [step.lu is not None for level in layout.steps for step in level]
    said = hparams[1]["flow_permutation"] if hparams else None
    if any(stored) and said in (None, "invconv"):
        prefix = layout.layer(0, 0) + "invconv."
        if layout.steps[0][0].lu and not tensors.has(prefix + "p"):
            raise CheckpointError(
                f"{name}: {prefix}p is missing: an early version of the port did not save the "
                "permutation of its LU decomposition, without which it cannot be recovered"
            )
        return
    if said == "reverse" and not any(stored):
        return
    if said == "shuffle":
        raise CheckpointError(
            f"{name}: flow_permutation is 'shuffle' in {hparams[0] if hparams else ''}: the random "
            "permutations were not saved with the weights and cannot be recovered"
        )
    if said is None:
        raise CheckpointError(
            f"{name}: no 1x1 convolution is stored, and no hparams.json beside it says "
            "flow_permutation: 'reverse' can be exported, a 'shuffle' was not saved"
        )
    state = "a 1x1 convolution is" if any(stored) else "no 1x1 convolution is"
    raise CheckpointError(
        f"{name}: flow_permutation is {str(said)[:20]!a} in {hparams[0] if hparams else ''}, but "
        f"{state} stored"
    )


def image_size(
    tensors: Tensors,
    layout: Layout,
    flags: GlowFlags,
    hparams: Hparams | None,
) -> tuple[int, int]:
    name, num_levels = tensors.file_name, len(layout.steps)
    _, _, h, w = tensors.shape("prior_h", 4)
    size = check_image_size(name, (h << num_levels, w << num_levels), num_levels)
    shape = hparams[1].get("image_shape") if hparams else None
    if hparams and shape is not None and shape != [*size, layout.in_channels]:
        raise CheckpointError(
            f"{name}: image_shape is {str(shape)[:40]} in {hparams[0]}, prior_h and the channels "
            f"say {[*size, layout.in_channels]}"
        )
    return settled(
        name, "--image-size", flags.image_size, size, f"prior_h is that of {shown(size)} pictures"
    )


def check_hparams(tensors: Tensors, layout: Layout, hparams: Hparams) -> None:
    """What the sidecar says of the network is what the weights say."""
    steps = [step for level in layout.steps for step in level]
    found: dict[str, Any] = {
        "K": layout.K,
        "L": len(layout.steps),
        "flow_coupling": "affine" if steps[0].affine else "additive",
        "hidden_channels": steps[0].width,
        "learn_top": layout.learn_top,
        "y_condition": layout.num_classes > 0,
    }
    if steps[0].lu is not None:
        found["LU_decomposed"] = steps[0].lu
    for key, value in found.items():
        said = hparams[1].get(key, value)
        if said != value:
            raise CheckpointError(
                f"{tensors.file_name}: {key} is {str(said)[:20]} in {hparams[0]}, the weights say "
                f"{value}: it belongs to another checkpoint"
            )


def dataset_of(hparams: Hparams | None) -> str | None:
    value = hparams[1].get("dataset") if hparams else None
    return value if isinstance(value, str) and len(value) <= 40 else None
