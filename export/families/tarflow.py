"""TarFlow: its configuration, its network, and how a checkpoint's weights map onto both.

Zhai et al., "Normalizing Flows are Capable Generative Models", 2024; checkpoints as
apple/ml-tarflow saves them (a bare state_dict of ``transformer_flow.Model``). The network is
written anew from the paper and the checkpoint's shapes; it is the float32 reference that every
exported artifact is compared with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import PurePath
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...runtime.errors import CheckpointError
from ...runtime.spec import (
    ARBlock,
    ClassConditioning,
    FlowSpec,
    ImageSpec,
    LatentSpec,
    TrainingNoise,
)
from ..checkpoint_files import without_suffix
from ..lazy import LazyMapping
from ..options import MAX_NOISE_STD as MAX_NOISE_STD
from ..options import ConfigOverrides as ConfigOverrides
from ..quantize.matrix import QuantizedMatrix

Floats = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]

DEFAULT_HEAD_DIM = 64  # not stored in a checkpoint; no released one differs
LAYER_NORM_EPSILON = 1e-5
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


# ---- configuration ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TarFlowConfig:
    """Hyper-parameters, in the reference's words.

    Attributes:
        nvp: False is the volume-preserving variant, whose prior has learned variances ``var``.
        expansion: width of the MLP over ``channels``.
        noise: training noise, from the file name or ``--noise-std``.
        class_names: empty, or one for each class.
    """

    in_channels: int
    img_size: int
    patch_size: int
    channels: int
    num_blocks: int
    layers_per_block: int
    num_classes: int
    nvp: bool
    head_dim: int
    expansion: int
    noise: TrainingNoise
    class_names: tuple[str, ...] = ()

    @property
    def num_patches(self) -> int:
        """T."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def patch_dim(self) -> int:
        """D: values in a patch."""
        return self.in_channels * self.patch_size**2

    @property
    def num_heads(self) -> int:
        return self.channels // self.head_dim

    @property
    def output_dim(self) -> int:
        """Width of proj_out: xa and xb, or xb alone."""
        return 2 * self.patch_dim if self.nvp else self.patch_dim

    @property
    def block_parameters(self) -> int:
        """Trainable parameters of one block, embedding tables included."""
        c, e = self.channels, self.expansion
        layer = 3 * c * c + 3 * c + c * c + c + 2 * e * c * c + e * c + c + 4 * c
        ends = c * self.patch_dim + c + self.output_dim * (c + 1)
        return layer * self.layers_per_block + ends + (self.num_patches + self.num_classes) * c

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the model (``var`` and the masks are buffers)."""
        return self.num_blocks * self.block_parameters

    def flow_spec(self) -> FlowSpec:
        """The torch-free description; stages run from the last block to the first."""
        blocks = tuple(
            ARBlock(
                kind="ar_block",
                name=f"block{b}",
                block=b,
                channels=self.channels,
                num_layers=self.layers_per_block,
                num_heads=self.num_heads,
                head_dim=self.head_dim,
                permutation="flip" if b % 2 else "identity",
                scale="exp" if self.nvp else "none",
            )
            for b in reversed(range(self.num_blocks))
        )
        conditioning = None
        if self.num_classes:
            conditioning = ClassConditioning("class", self.num_classes, self.class_names)
        return FlowSpec(
            family="tarflow",
            image=ImageSpec(self.img_size, self.in_channels, self.patch_size, self.num_patches),
            latents=(LatentSpec("z", (self.num_patches, self.patch_dim), "scaled_normal"),),
            stages=blocks,
            conditioning=conditioning,
            guidance="linear_ab",
            denoise="tweedie" if self.noise.kind == "gaussian" else None,
            training_noise=self.noise,
        )


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
    _check_shapes(file_name, shapes, config)
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


# ---- network ------------------------------------------------------------------------------------

KVCache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Causal multi-head self-attention with its LayerNorm; rows of qkv are q, k, v."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPSILON)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, q_scale: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        N, W, C = x.shape
        qkv = self.qkv(self.norm(x)).reshape(N, W, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, H, W, head_dim]
        if q_scale is not None:
            q = q * q_scale[:, None, None, None]
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(W, k.shape[2], dtype=torch.bool).tril(k.shape[2] - W)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(N, W, C)), (k, v)


class MLP(nn.Module):
    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPSILON)
        self.main = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.GELU(),
            nn.Linear(expansion * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.main(self.norm(x))
        return y


class Layer(nn.Module):
    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.attention = Attention(config.channels, config.num_heads)
        self.mlp = MLP(config.channels, config.expansion)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, q_scale: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, cache = self.attention(x, past, q_scale)
        x = x + y
        return x + self.mlp(x), cache


class TarFlowBlock(nn.Module):
    """One block as every engine sees it: a window of patches to the affine parameters that follow.

    Names of parameters are the checkpoint's. The embedding tables are host data: the rows
    (position + class) come in as ``context``.
    """

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.proj_in = nn.Linear(config.patch_dim, config.channels)
        self.attn_blocks = nn.ModuleList([Layer(config) for _ in range(config.layers_per_block)])
        self.proj_out = nn.Linear(config.channels, config.output_dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        past: KVCache | None = None,
        q_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, KVCache]:
        """Patches p..p+W-1 to (xa, xb) of the patches p+1..p+W, all in the block's own order.

        Args:
            x: [N, W, D] patches.
            context: [N, W, C] position + class rows.
            past: keys and values of the patches before, from the previous call.
            q_scale: [N] factor on the queries (1 / attn_temp), or None.

        Returns:
            xa [N, W, D] (zeros when not nvp), xb [N, W, D], and the cache for the next call.
        """
        h, caches = self.proj_in(x) + context, []
        for i, layer in enumerate(self.attn_blocks):
            h, cache = layer(h, past[i] if past else None, q_scale)
            caches.append(cache)
        y = self.proj_out(h)
        if not self.config.nvp:
            return torch.zeros_like(y), y, caches
        xa, xb = y.chunk(2, -1)
        return xa, xb, caches


# ---- weight map ---------------------------------------------------------------------------------


def is_mask(name: str) -> bool:
    """Causal masks are stored (33.5 MB in AFHQ-256) but say nothing: they are never loaded."""
    return re.fullmatch(r"blocks\.[0-9]+\.attn_mask", name) is not None


def block_tensor_names(shapes: Shapes, block: int) -> list[str]:
    """Names of a block's tensors in the checkpoint, without the causal mask."""
    prefix = f"blocks.{block}."
    return [n for n in shapes if n.startswith(prefix) and not is_mask(n)]


@dataclass(frozen=True)
class BlockWeights:
    """Float32 arrays of one block; both mappings may make them when they are asked for.

    Attributes:
        network: parameters of TarFlowBlock by name.
        pos: [T, C] position rows in the block's own order (reversed in flipped blocks).
        classes: [K + 1, C] class rows and their mean; one row of zeros without classes.
        quantized: what is written in place of the matrix of that name in ``network``, which stays
            the trained one.
        cache_scales: [layers, 2, C] of one step of an int8 cache, of keys and of values; None where
            the cache is not quantized.
    """

    network: Mapping[str, Floats]
    pos: Floats
    classes: Floats
    quantized: Mapping[str, QuantizedMatrix] = field(default_factory=dict)
    cache_scales: Floats | None = None

    def dequantized(self) -> BlockWeights:
        """The same block with the values that the quantized matrices stand for."""
        values = {name: matrix.dequantized() for name, matrix in self.quantized.items()}
        return replace(self, network={**self.network, **values}, quantized={})

    def module(self, config: TarFlowConfig) -> TarFlowBlock:
        """The torch module on these very arrays (no copy), whatever is quantized."""
        with torch.device("meta"):
            module = TarFlowBlock(config)
        return _fill(module, self.network.__getitem__)

    def part(self, config: TarFlowConfig, name: str) -> nn.Module:
        """One part of the module (``proj_in``, ``attn_blocks.3``) with the values that quantized
        matrices stand for; nothing else of the block is made."""
        with torch.device("meta"):
            part = TarFlowBlock(config).get_submodule(name)
        return _fill(part, lambda parameter: self._value(f"{name}.{parameter}"))

    def _value(self, name: str) -> Floats:
        if name in self.quantized:
            return self.quantized[name].dequantized()
        return self.network[name]


ModuleType = TypeVar("ModuleType", bound=nn.Module)


def _fill(module: ModuleType, array: Callable[[str], Floats]) -> ModuleType:
    """Give a module of meta tensors its parameters by name, without copying them."""
    state = {name: torch.from_numpy(array(name)) for name in module.state_dict()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def block_weights(tensors: Mapping[str, Floats], block: int) -> BlockWeights:
    """Split a block's checkpoint tensors into network, looked up when asked for, and tables."""
    prefix = f"blocks.{block}."
    tables = (f"{prefix}pos_embed", f"{prefix}class_embed")
    pos = tensors[tables[0]]
    given = tensors.get(tables[1])
    rows = np.zeros((0, pos.shape[1]), np.float32) if given is None else given[:, 0]
    mean = rows.mean(0, keepdims=True) if len(rows) else np.zeros((1, pos.shape[1]), np.float32)
    names = [name.removeprefix(prefix) for name in tensors if name not in tables]
    return BlockWeights(
        network=LazyMapping(names, lambda name: tensors[prefix + name]),
        pos=np.ascontiguousarray(pos[::-1] if block % 2 else pos),
        classes=np.concatenate([rows, mean]).astype(np.float32),
    )


def expected_shapes(config: TarFlowConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, masks left out."""
    with torch.device("meta"):
        network = TarFlowBlock(config).state_dict()
    T, C = config.num_patches, config.channels
    shapes: dict[str, tuple[int, ...]] = {"var": (T, config.patch_dim)}
    for b in range(config.num_blocks):
        shapes[f"blocks.{b}.pos_embed"] = (T, C)
        if config.num_classes:
            shapes[f"blocks.{b}.class_embed"] = (config.num_classes, 1, C)
        shapes |= {f"blocks.{b}.{name}": tuple(t.shape) for name, t in network.items()}
    return shapes


def _check_shapes(file_name: str, shapes: Shapes, config: TarFlowConfig) -> None:
    expected = expected_shapes(config)
    given = {name: shape for name, shape in shapes.items() if not is_mask(name)}
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            raise CheckpointError(f"{file_name}: the tensor {name} is missing")
        if name not in expected:
            raise CheckpointError(f"{file_name}: the tensor {name} is not part of a TarFlow model")
        if given[name] != expected[name]:
            raise CheckpointError(
                f"{file_name}: {name} has the shape {given[name]}, expected {expected[name]}"
            )
