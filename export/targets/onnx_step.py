"""The step graph of one autoregressive block, in two forms.

``gqa``: ONNX Runtime's GroupQueryAttention; any window, past and present keys bound to one buffer
of T rows, so the cache is updated in place. ``core``: standard operators and static shapes for
providers that have nothing else (Core ML, QNN); the host commits the new rows.

Between two attentions all patches of all pictures and branches are rows of one matrix: Gemm adds
bias or residual stream while it multiplies, and a LayerNormalization of its own is several times as
fast for a window as ONNX Runtime 1.32's SkipLayerNormalization.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ...runtime.engines.onnx_forms import has_int8_cache, multiplies_codes
from ...runtime.errors import UsageError
from ..families.tarflow import LAYER_NORM_EPSILON, BlockWeights, TarFlowConfig
from .onnx_graph import OPSET, Graph, WeightsFile
from .onnx_quantized import (
    OPSET_WITH_4_BITS,
    PackedMatrix,
    add_matrix,
    part_of,
    quantized_matmul,
    unpacked,
)

F32, F16, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32
_HALF: tuple[npt.DTypeLike, int] = (np.float16, F16)
_SINGLE: tuple[npt.DTypeLike, int] = (np.float32, F32)
Packed = Mapping[str, PackedMatrix]


def float_type(precision: str) -> tuple[npt.DTypeLike, int]:
    """What is not quantized has this type, the cache too; numpy's and ONNX's word for it."""
    return _HALF if precision == "fp16" else _SINGLE


def scale_name(kind: str, layer: int, branches: int) -> str:
    """Steps [branches * C] of the codes of an int8 cache; ``kind`` is k or v."""
    return f"cache_scales.{kind}.{layer}.{branches}"


def add_weights(
    file: WeightsFile, weights: BlockWeights, precision: str, formats: Collection[str]
) -> Packed:
    """Append a block's parameters, one at a time (both mappings may make them when asked).

    Matrices are [out, in], as in the checkpoint; the thirds of each ``qkv`` have names of their
    own, ``.q``, ``.k`` and ``.v`` added.

    Args:
        formats: those that quantized matrices may have.

    Returns:
        The quantized matrices by name.

    Raises:
        UsageError: a matrix in another format.
    """
    dtype, packed = float_type(precision)[0], {}
    if weights.cache_scales is not None:
        for layer, scales in enumerate(weights.cache_scales):
            for n, scale in zip("kv", scales, strict=True):
                for branches in (1, 2):
                    file.add(scale_name(n, layer, branches), np.tile(scale, branches))
    for name in weights.network:
        thirds = enumerate("qkv" if ".qkv." in name else "")
        if name in weights.quantized:
            matrix = weights.quantized[name]
            if matrix.format.name not in formats:
                raise UsageError(
                    f"onnx {precision} cannot store {name} as {matrix.format.name}: choose from "
                    f"{', '.join(formats) or 'the precisions int8, int4 and mixed'}"
                )
            packed[name] = add_matrix(file, name, matrix)
            for i, third in thirds:
                packed[f"{name}.{third}"] = part_of(file, f"{name}.{third}", name, packed[name], i)
            continue
        file.add(name, weights.network[name].astype(dtype))
        for i, third in thirds:
            file.part(f"{name}.{third}", name, i, 3)
    return packed


class StepEmitter(ABC):
    """What both forms share: everything except attention.

    Attributes:
        multiplies_codes: by MatMulNBits; otherwise quantized matrices become floats once, when the
            graph is loaded.
    """

    multiplies_codes = False

    def __init__(
        self, config: TarFlowConfig, weights: WeightsFile, packed: Packed, precision: str
    ) -> None:
        self.config, self.g, self.packed = config, Graph(weights), packed
        self.dtype, self.kind = float_type(precision)

    def linear(self, x: str, name: str, *, skip: str = "", third: str = "") -> str:
        """x [rows, in] to [rows, out], with bias; ``skip`` [rows, out] is added."""
        g, end = self.g, f".{third}" if third else ""
        weight, bias = f"{name}.weight{end}", g.weight(f"{name}.bias{end}")
        packed = self.packed.get(weight)
        if packed and self.multiplies_codes:
            y = quantized_matmul(g, x, weight, packed, bias)
            return g.op("Add", y, skip) if skip else y
        matrix = unpacked(g, weight, packed, once=True) if packed else g.weight(weight)
        return g.op("Gemm", x, matrix, g.op("Add", skip, bias) if skip else bias, transB=1)

    def norm(self, h: str, name: str) -> str:
        w, b = self.g.weight(f"{name}.weight"), self.g.weight(f"{name}.bias")
        return self.g.op("LayerNormalization", h, w, b, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def cast(self, x: str, kind: int) -> str:
        return x if self.kind == F32 else self.g.op("Cast", x, to=kind)

    def flat(self, x: str, size: int) -> str:
        """[..., size] to rows [rows, size]."""
        return self.g.op("Reshape", x, self.g.int64(-1, size))

    @abstractmethod
    def leading(self) -> list[int | str]:
        """The first two dimensions of x, context and ab."""

    @abstractmethod
    def attention(self, layer: int, y: str, qkv: str) -> str:
        """Normalized rows [rows, C], and the name of the matrix qkv, to attended [rows, C]."""

    @abstractmethod
    def unflat(self, x: str, size: int) -> str:
        """Rows [rows, size] to [leading dimensions, size]."""

    def body(self) -> None:
        """From the inputs x and context to the output ab."""
        c, g = self.config, self.g
        x = g.input("x", F32, [*self.leading(), c.patch_dim])
        context = g.input("context", F32, [*self.leading(), c.channels])
        h = self.flat(self.cast(context, self.kind), c.channels)
        h = self.linear(self.flat(self.cast(x, self.kind), c.patch_dim), "proj_in", skip=h)
        for i in range(c.layers_per_block):
            p = f"attn_blocks.{i}"
            y = self.norm(h, f"{p}.attention.norm")
            y = self.attention(i, y, f"{p}.attention.qkv")
            h = self.linear(y, f"{p}.attention.proj", skip=h)
            y = self.linear(self.norm(h, f"{p}.mlp.norm"), f"{p}.mlp.main.0")
            h = self.linear(g.op("Gelu", y), f"{p}.mlp.main.2", skip=h)
        y = self.cast(self.unflat(self.linear(h, "proj_out"), c.output_dim), F32)
        g.output(y, "ab", F32, [*self.leading(), c.output_dim])


class GqaStep(StepEmitter):
    """Any window W, which is dynamic.

    Inputs beside x and context: seqlens_k int32 (position + W - 1 for each row of the cache),
    total_len int32 scalar (position + W), past_{k,v}_l; outputs ab and present_{k,v}_l.

    With one branch, x [R, W, D] may be several pictures where W = 1 or position = 0
    (GroupQueryAttention refuses the rest). With two branches, x [W, 2, D] is one picture: a patch's
    branches lie side by side and are heads of one sequence, which works for every W and position.
    q_scale [2C] scales the queries, first those of the first branch (attn_temp).

    Args:
        form: one of those of runtime/engines/onnx_forms.py but ``core``.
    """

    def __init__(
        self,
        config: TarFlowConfig,
        weights: WeightsFile,
        packed: Packed,
        precision: str,
        branches: int,
        form: str,
    ) -> None:
        super().__init__(config, weights, packed, precision)
        self.branches, self.form = branches, form
        self.multiplies_codes = multiplies_codes(form)
        self.cache_kind = TensorProto.INT8 if has_int8_cache(form) else self.kind
        self.cache_shape = [
            "R" if branches == 1 else 1,
            branches * config.num_heads,
            "S",
            config.head_dim,
        ]

    def build(self) -> onnx.ModelProto:
        c, g = self.config, self.g
        g.input("seqlens_k", I32, self.cache_shape[:1])
        g.input("total_len", I32, [])
        if self.branches == 2:
            scale = g.input("q_scale", F32, [2 * c.channels])
            self.q_scale = self.cast(scale, self.kind)
        else:
            shape = g.op("Shape", "x", end=2)
            self.pictures_and_patches = g.op("Concat", shape, g.int64(-1), axis=0)
        for i in range(c.layers_per_block):
            for n in "kv":
                g.input(f"past_{n}_{i}", self.cache_kind, self.cache_shape)
        self.body()
        return g.model(f"{self.form}_b{self.branches}", OPSET_WITH_4_BITS if self.packed else OPSET)

    def leading(self) -> list[int | str]:
        return ["R", "W"] if self.branches == 1 else ["W", 2]

    def unflat(self, x: str, size: int) -> str:
        g = self.g
        if self.branches == 2:
            return g.op("Reshape", x, g.int64(-1, 2, size))
        return g.op("Reshape", x, self.pictures_and_patches)

    def attention(self, layer: int, y: str, qkv: str) -> str:
        c, g = self.config, self.g
        if self.branches == 1:
            inputs = [self.unflat(self.linear(y, qkv), 3 * c.channels), "", ""]
        else:
            inputs = [
                g.op("Reshape", self.linear(y, qkv, third=third), g.int64(1, -1, 2 * c.channels))
                for third in "qkv"
            ]
            inputs[0] = g.op("Mul", inputs[0], self.q_scale)
        inputs += [f"past_k_{layer}", f"past_v_{layer}", "seqlens_k", "total_len"]
        cache: dict[str, str | int] = {}
        if has_int8_cache(self.form):
            scales = [g.weight(scale_name(n, layer, self.branches)) for n in "kv"]
            inputs += ["", "", "", "", "", *scales]  # no rotation, position, bias or sink
            cache = dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
            cache["kv_cache_bit_width"] = 8
        heads = self.branches * c.num_heads
        out, k, v = g.ops(
            "GroupQueryAttention",
            3,
            *inputs,
            domain="com.microsoft",
            **cache,
            num_heads=heads,
            kv_num_heads=heads,
            scale=float(c.head_dim**-0.5),
        )
        for n, value in (("k", k), ("v", v)):
            g.output(value, f"present_{n}_{layer}", self.cache_kind, self.cache_shape)
        return self.flat(out, c.channels)


class CoreStep(StepEmitter):
    """Static shapes and standard operators only: Add Cast Concat Gelu Gemm LayerNormalization
    MatMul Mul Reshape Softmax Split Transpose (and Slice Sub Unsqueeze on quantized weights, gone
    when the graph is loaded).

    Inputs x [R, W, D], context [R, W, C], mask [1, 1, W, T + W] (additive: cache rows, then new
    rows), q_scale [R, 1, 1, 1], past_{k,v}_l [R, H, T, d]; outputs ab [R, W, 2D or D] and
    new_{k,v}_l [R, H, W, d], which the host writes into its cache. The softmax runs over both parts
    at once, so the cache is never copied in the graph.
    """

    def __init__(
        self,
        config: TarFlowConfig,
        weights: WeightsFile,
        packed: Packed,
        precision: str,
        rows: int,
        window: int,
    ) -> None:
        super().__init__(config, weights, packed, precision)
        self.rows, self.window = rows, window

    def build(self) -> onnx.ModelProto:
        c, g = self.config, self.g
        mask = g.input("mask", F32, [1, 1, self.window, c.num_patches + self.window])
        self.mask = self.cast(mask, self.kind)
        self.q_scale = self.cast(g.input("q_scale", F32, [self.rows, 1, 1, 1]), self.kind)
        for i in range(c.layers_per_block):
            for n in "kv":
                shape = [self.rows, c.num_heads, c.num_patches, c.head_dim]
                g.input(f"past_{n}_{i}", self.kind, shape)
        self.body()
        opset = OPSET_WITH_4_BITS if self.packed else OPSET
        return g.model(f"core_w{self.window}_r{self.rows}", opset)

    def leading(self) -> list[int | str]:
        return [self.rows, self.window]

    def unflat(self, x: str, size: int) -> str:
        return self.g.op("Reshape", x, self.g.int64(self.rows, self.window, size))

    def attention(self, layer: int, y: str, qkv: str) -> str:
        c, g, W = self.config, self.g, self.window
        T, H, d = c.num_patches, c.num_heads, c.head_dim
        y = g.op("Reshape", self.linear(y, qkv), g.int64(self.rows, W, 3 * H, d))
        q, k, v = g.ops("Split", 3, g.op("Transpose", y, perm=[0, 2, 1, 3]), axis=1, num_outputs=3)
        scale = g.op("Mul", self.q_scale, g.constant(d**-0.5, self.dtype))
        q = g.op("Mul", q, scale)
        past_k, new_k = (
            g.op("MatMul", q, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
            for keys in (f"past_k_{layer}", k)
        )
        logits = g.op("Add", g.op("Concat", past_k, new_k, axis=-1), self.mask)
        p_past, p_new = g.ops("Split", 2, g.op("Softmax", logits, axis=-1), g.int64(T, W), axis=-1)
        past, new = g.op("MatMul", p_past, f"past_v_{layer}"), g.op("MatMul", p_new, v)
        for n, value in (("k", k), ("v", v)):
            g.output(value, f"new_{n}_{layer}", self.kind, [self.rows, H, W, d])
        return self.flat(g.op("Transpose", g.op("Add", past, new), perm=[0, 2, 1, 3]), c.channels)
