"""Hyper-parameters from a checkpoint's tensor names, their shapes and its file name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import PurePath
from typing import Literal

from ....runtime.errors import CheckpointError
from ....runtime.spec import TrainingNoise
from ...options import MAX_NOISE_STD, ConfigOverrides
from ...sources.checkpoint_files import without_suffix
from .config import Shapes, TarFlowConfig
from .weights import check_shapes

DEFAULT_HEAD_DIM = 64  # not stored in a checkpoint; no released one differs
KNOWN_CLASS_NAMES = {
    "afhq": ("cat", "dog", "wild"),
    "mnist": tuple("0123456789"),
    "fmnist": (
        "t-shirt", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _NameHints:
    dataset: str
    patch_size: int
    channels: int
    num_blocks: int
    layers_per_block: int
    noise: str


_NAME = re.compile(
    r"(?P<dataset>.+?)_model_(?P<patch_size>[0-9]{1,6})_(?P<channels>[0-9]{1,6})"
    r"_(?P<num_blocks>[0-9]{1,6})_(?P<layers_per_block>[0-9]{1,6})"
    r"_(?P<noise>[0-9]{1,6}(\.[0-9]+)?|uniform)"
)


def checkpoint_name(dataset: str, config: TarFlowConfig) -> str:
    """The reference's file name, without suffix; its noise has two digits."""
    if config.noise.kind == "unknown":
        raise ValueError("a file name needs to say the training noise")
    noise = "uniform" if config.noise.std is None else f"{config.noise.std:.2f}"
    return (
        f"{dataset}_model_{config.patch_size}_{config.channels}_{config.num_blocks}"
        f"_{config.layers_per_block}_{noise}"
    )


def _hints_from_name(file_name: str) -> _NameHints | None:
    """What ``checkpoint_name`` and any suffix say, or None for a name of another form."""
    stem = without_suffix(PurePath(file_name).name)
    match = _NAME.fullmatch(stem)
    if not match:
        return None
    names = ("patch_size", "channels", "num_blocks", "layers_per_block")
    sizes = {name: int(match[name]) for name in names}
    return _NameHints(dataset=match["dataset"], noise=match["noise"], **sizes)


def is_tarflow(names: Collection[str]) -> bool:
    """By three of four names, so that an incomplete checkpoint is told what it lacks.

    STARFlow shares most names, but has a start-of-sequence token and no position table.
    """
    own = (
        "var",
        "blocks.0.pos_embed",
        "blocks.0.proj_out.weight",
        "blocks.0.attn_blocks.0.attention.qkv.weight",
    )
    return sum(name in names for name in own) >= 3 and "blocks.0.sos_embed" not in names


def infer_config(shapes: Shapes, file_name: str, overrides: ConfigOverrides) -> TarFlowConfig:
    """Every hyper-parameter from the shapes, the file name and the user's word.

    Costs no more memory than the names do, whatever sizes the shapes claim.

    Raises:
        CheckpointError: they contradict each other, or leave something open (the message says
            which option decides it).
    """
    hints = _hints_from_name(file_name)
    T, D = _shape(file_name, shapes, "var", 2)
    channels = _shape(file_name, shapes, "blocks.0.pos_embed", 2)[1]
    expanded = _shape(file_name, shapes, "blocks.0.attn_blocks.0.mlp.main.0.weight", 2)[0]
    out = _shape(file_name, shapes, "blocks.0.proj_out.weight", 2)[0]
    with_classes = [name for name in shapes if name.endswith(".class_embed")]
    classes = _shape(file_name, shapes, with_classes[0], 3)[0] if with_classes else 0
    num_blocks = _count(file_name, shapes, "blocks.")
    layers = _count(file_name, shapes, "blocks.0.attn_blocks.")
    if hints:
        found = {"channels": channels, "num_blocks": num_blocks, "layers_per_block": layers}
        for key, value in found.items():
            if getattr(hints, key) != value:
                raise CheckpointError(
                    f"{file_name}: the file name says {key} {getattr(hints, key)}, the weights "
                    f"say {value}: rename the file if the weights are right"
                )
    if out not in (D, 2 * D):
        raise CheckpointError(
            f"{file_name}: proj_out has {out} rows, expected {2 * D} (or {D} without nvp) for "
            f"{D} values in a patch"
        )
    if expanded % channels:
        raise CheckpointError(
            f"{file_name}: the MLP is {expanded} wide, not a multiple of {channels} channels"
        )
    if isqrt(T) ** 2 != T:
        raise CheckpointError(f"{file_name}: {T} patches are not a square")
    in_channels, patch_size = _split_patch(file_name, D, hints, overrides.in_channels)
    config = TarFlowConfig(
        in_channels=in_channels,
        img_size=isqrt(T) * patch_size,
        patch_size=patch_size,
        channels=channels,
        num_blocks=num_blocks,
        layers_per_block=layers,
        num_classes=classes,
        nvp=out == 2 * D,
        head_dim=_head_dim(file_name, channels, overrides.head_dim),
        expansion=expanded // channels,
        noise=_noise(file_name, hints, overrides.noise_std),
        class_names=_class_names(file_name, classes, hints, overrides.label_names),
    )
    try:
        config.flow_spec()  # knows the limits of every size
    except ValueError as error:
        raise CheckpointError(f"{file_name}: {error}") from error
    check_shapes(file_name, shapes, config)
    return config


def _shape(file_name: str, shapes: Shapes, name: str, ndim: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(f"{file_name}: the tensor {name} is missing")
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(
            f"{file_name}: {name} has the shape {shape}, expected {ndim} dimensions, none of them 0"
        )
    return shape


def _count(file_name: str, names: Collection[str], prefix: str) -> int:
    """How many modules are numbered from 0 on under a prefix."""
    pattern = re.compile(re.escape(prefix) + r"([0-9]{1,9})\.")
    found = {int(match[1]) for name in names if (match := pattern.match(name))}
    if missing := set(range(len(found))) - found:
        raise CheckpointError(
            f"{file_name}: {prefix}{min(missing)} is missing, but {prefix}{max(found)} is there"
        )
    return len(found)


def _split_patch(
    file_name: str, D: int, hints: _NameHints | None, said: int | None
) -> tuple[int, int]:
    """(in_channels, patch_size) with in_channels * patch_size^2 == D."""
    choices = [
        (c, isqrt(D // c))
        for c in ((1, 3, 4) if said is None else (said,))
        if D % c == 0 and isqrt(D // c) ** 2 == D // c
    ]
    if not choices:
        raise CheckpointError(
            f"{file_name}: {D} values in a patch are not channels * patch_size^2 with "
            f"{said or '1, 3 or 4'} channels: say the right number with --in-channels"
        )
    if hints and hints.patch_size not in (patch_size for _, patch_size in choices):
        raise CheckpointError(
            f"{file_name}: the file name says patch_size {hints.patch_size}, but {D} values in a "
            f"patch are {_either(choices)}: rename the file, or say --in-channels"
        )
    if hints:
        choices = [choice for choice in choices if choice[1] == hints.patch_size]
    if len(choices) > 1:
        raise CheckpointError(
            f"{file_name}: {D} values in a patch can be {_either(choices)}: say which with "
            "--in-channels"
        )
    return choices[0]


def _either(choices: Sequence[tuple[int, int]]) -> str:
    return " or ".join(f"{c} channel{'s' * (c > 1)} in patches of {p}" for c, p in choices)


def _head_dim(file_name: str, channels: int, said: int | None) -> int:
    value = DEFAULT_HEAD_DIM if said is None else said
    if channels % value:
        raise CheckpointError(
            f"{file_name}: {channels} channels are not a multiple of head_dim {value}: say the "
            "right one with --head-dim"
        )
    return value


def _noise(
    file_name: str, hints: _NameHints | None, said: float | Literal["uniform"] | None
) -> TrainingNoise:
    value = said if said is not None else hints.noise if hints else None
    if value == "uniform":
        return TrainingNoise("uniform")
    std = 0.0 if value is None else float(value)
    if not 0 <= std < MAX_NOISE_STD:
        raise CheckpointError(
            f"{file_name}: the file name says a training noise of {std}, expected less than 10"
        )
    # 0.00 in a name is less than the name can say
    return TrainingNoise("gaussian", std) if std else TrainingNoise("unknown")


def _class_names(
    file_name: str, classes: int, hints: _NameHints | None, said: Sequence[str] | None
) -> tuple[str, ...]:
    if said is not None:
        if len(said) != classes:
            raise CheckpointError(
                f"{file_name}: {len(said)} label names for {classes} classes (--label-names)"
            )
        return tuple(said)
    known = KNOWN_CLASS_NAMES.get(hints.dataset.lower() if hints else "", ())
    return known if len(known) == classes else ()
