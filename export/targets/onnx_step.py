"""The step graph of one autoregressive block, in two forms.

``gqa``: ONNX Runtime's GroupQueryAttention; any window, past and present keys bound to one buffer
of T rows, so the cache is updated in place. ``core``: standard operators and static shapes for
providers that have nothing else (Core ML, QNN); the host commits the new rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ...runtime.errors import UsageError
from ..families.tarflow import LAYER_NORM_EPSILON, BlockWeights, TarFlowConfig
from .onnx_graph import Graph, WeightsFile
from .onnx_quantized import PackedMatrix, add_matrix, quantized_matmul

F32, F16, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32
_HALF: tuple[npt.DTypeLike, int] = (np.float16, F16)
_SINGLE: tuple[npt.DTypeLike, int] = (np.float32, F32)
Packed = Mapping[str, PackedMatrix]


def float_type(precision: str) -> tuple[npt.DTypeLike, int]:
    """What is not quantized has this type, the cache too; numpy's and ONNX's word for it."""
    return _HALF if precision == "fp16" else _SINGLE


def add_weights(
    file: WeightsFile, weights: BlockWeights, precision: str, formats: Collection[str]
) -> Packed:
    """Append a block's parameters, one at a time (both mappings may make them when asked).

    Float matrices are transposed to [in, out] as MatMul wants them, quantized ones stay [out, in].

    Args:
        formats: those that quantized matrices may have.

    Returns:
        The quantized matrices by name.

    Raises:
        UsageError: a matrix in another format.
    """
    dtype, packed = float_type(precision)[0], {}
    for name in weights.network:
        if name in weights.quantized:
            matrix = weights.quantized[name]
            if matrix.format.name not in formats:
                raise UsageError(
                    f"onnx {precision} cannot store {name} as {matrix.format.name}: choose from "
                    f"{', '.join(formats) or 'the precisions int8, int4 and mixed'}"
                )
            packed[name] = add_matrix(file, name, matrix)
            continue
        array = weights.network[name]
        file.add(name, (array.T if array.ndim == 2 else array).astype(dtype))
    return packed


class StepEmitter(ABC):
    """What both forms share: everything except attention."""

    def __init__(
        self, config: TarFlowConfig, weights: WeightsFile, packed: Packed, precision: str
    ) -> None:
        self.config, self.g, self.packed = config, Graph(weights), packed
        self.dtype, self.kind = float_type(precision)

    def matmul(self, x: str, name: str) -> str:
        if packed := self.packed.get(f"{name}.weight"):
            return quantized_matmul(self.g, x, f"{name}.weight", packed)
        return self.g.op("MatMul", x, self.g.weight(f"{name}.weight"))

    def linear(self, x: str, name: str) -> str:
        return self.g.op("Add", self.matmul(x, name), self.g.weight(f"{name}.bias"))

    def add_and_norm(self, product: str, linear: str, skip: str, norm: str) -> tuple[str, str]:
        """LayerNorm(h) and h = product + bias of ``linear`` + skip, the residual stream."""
        bias = self.g.weight(f"{linear}.bias")
        h = self.g.op("Add", self.g.op("Add", product, bias), skip)
        w, b = self.g.weight(f"{norm}.weight"), self.g.weight(f"{norm}.bias")
        y = self.g.op("LayerNormalization", h, w, b, axis=-1, epsilon=LAYER_NORM_EPSILON)
        return y, h

    def cast(self, x: str, kind: int) -> str:
        return x if self.kind == F32 else self.g.op("Cast", x, to=kind)

    @abstractmethod
    def attention(self, layer: int, qkv: str) -> str:
        """qkv [R, W, 3C] to [R, W, C]."""

    def body(self, rows: int | str, window: int | str) -> None:
        """From the inputs x and context to the output ab."""
        c, g = self.config, self.g
        x = g.input("x", F32, [rows, window, c.patch_dim])
        context = g.input("context", F32, [rows, window, c.channels])
        product, linear = self.matmul(self.cast(x, self.kind), "proj_in"), "proj_in"
        h = self.cast(context, self.kind)
        for i in range(c.layers_per_block):
            p = f"attn_blocks.{i}"
            y, h = self.add_and_norm(product, linear, h, f"{p}.attention.norm")
            y = self.attention(i, self.linear(y, f"{p}.attention.qkv"))
            product, linear = self.matmul(y, f"{p}.attention.proj"), f"{p}.attention.proj"
            y, h = self.add_and_norm(product, linear, h, f"{p}.mlp.norm")
            y = g.op("Gelu", self.linear(y, f"{p}.mlp.main.0"))
            product, linear = self.matmul(y, f"{p}.mlp.main.2"), f"{p}.mlp.main.2"
        h = g.op("Add", g.op("Add", product, g.weight(f"{linear}.bias")), h)
        y = self.cast(self.linear(h, "proj_out"), F32)
        g.output(y, "ab", F32, [rows, window, c.output_dim])


class GqaStep(StepEmitter):
    """Inputs x [R, W, D], context [R, W, C], seqlens_k int32 [R], total_len int32 scalar, past_*.

    seqlens_k = position + W - 1, total_len = position + W; W is dynamic. With one branch, R rows
    may be several pictures where W = 1 or position = 0 (GroupQueryAttention refuses the rest).
    With two branches R is 2 and the branches are folded into heads, which works for every W and
    position; qkv_scale [3, 2, 1] scales the queries of each branch (attn_temp).
    """

    def __init__(
        self,
        config: TarFlowConfig,
        weights: WeightsFile,
        packed: Packed,
        precision: str,
        branches: int,
    ) -> None:
        super().__init__(config, weights, packed, precision)
        self.branches = branches

    def build(self) -> onnx.ModelProto:
        c, g = self.config, self.g
        rows: int | str = "R" if self.branches == 1 else 2
        cache_rows: int | str = "R" if self.branches == 1 else 1
        g.input("seqlens_k", I32, [cache_rows])
        g.input("total_len", I32, [])
        if self.branches == 2:
            scale = g.input("qkv_scale", F32, [3, 2, 1])
            self.scale = self.cast(scale, self.kind)
        heads = self.branches * c.num_heads
        for i in range(c.layers_per_block):
            for n in "kv":
                g.input(f"past_{n}_{i}", self.kind, [cache_rows, heads, "S", c.head_dim])
        self.body(rows, "W")
        return g.model(f"gqa_b{self.branches}")

    def add_and_norm(self, product: str, linear: str, skip: str, norm: str) -> tuple[str, str]:
        """One node in place of three: at W = 1 the number of nodes is what costs time."""
        names = (f"{norm}.weight", f"{norm}.bias", f"{linear}.bias")
        y, _, _, h = self.g.ops(
            "SkipLayerNormalization",
            4,
            *(product, skip, *map(self.g.weight, names)),
            domain="com.microsoft",
            epsilon=LAYER_NORM_EPSILON,
        )
        self.g.nodes[-1].output[1:3] = ["", ""]  # mean and deviation are not wanted
        return y, h

    def attention(self, layer: int, qkv: str) -> str:
        c, g = self.config, self.g
        if self.branches == 2:  # [2, W, 3C] -> [W, 3, 2, C] -> [1, W, 6C]: branches become heads
            y = g.op("Reshape", qkv, g.int64(2, -1, 3, c.channels))
            y = g.op("Mul", g.op("Transpose", y, perm=[1, 2, 0, 3]), self.scale)
            qkv = g.op("Reshape", y, g.int64(1, -1, 6 * c.channels))
        heads = self.branches * c.num_heads
        out, k, v = g.ops(
            "GroupQueryAttention",
            3,
            *(qkv, "", "", f"past_k_{layer}", f"past_v_{layer}", "seqlens_k", "total_len"),
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=heads,
            scale=float(c.head_dim**-0.5),
        )
        cache_rows: int | str = "R" if self.branches == 1 else 1
        for n, value in (("k", k), ("v", v)):
            shape = [cache_rows, heads, "S", c.head_dim]
            g.output(value, f"present_{n}_{layer}", self.kind, shape)
        if self.branches == 2:
            # Not a Transpose: ONNX Runtime 1.32 fuses one with the MatMul that follows and then
            # crashes on fp16 while it loads the graph.
            out = g.op("Concat", *g.ops("Split", 2, out, axis=-1, num_outputs=2), axis=0)
        return out


class CoreStep(StepEmitter):
    """Static shapes and standard operators only: Add Cast Concat Gelu LayerNormalization MatMul Mul
    Reshape Softmax Split Transpose.

    Inputs x [R, W, D], context [R, W, C], mask [1, 1, W, T + W] (additive: cache rows, then new
    rows), q_scale [R, 1, 1, 1], past_{k,v}_l [R, H, T, d]; outputs ab [R, W, 2D or D] and
    new_{k,v}_l [R, H, W, d], which the host writes into its cache. The softmax runs over both parts
    at once, so the cache is never copied in the graph.
    """

    def __init__(
        self, config: TarFlowConfig, weights: WeightsFile, precision: str, rows: int, window: int
    ) -> None:
        super().__init__(config, weights, {}, precision)
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
        self.body(self.rows, self.window)
        return g.model(f"core_w{self.window}_r{self.rows}")

    def attention(self, layer: int, qkv: str) -> str:
        c, g, W = self.config, self.g, self.window
        T, H, d = c.num_patches, c.num_heads, c.head_dim
        y = g.op("Reshape", qkv, g.int64(self.rows, W, 3 * H, d))
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
        y = g.op("Transpose", g.op("Add", past, new), perm=[0, 2, 1, 3])
        return g.op("Reshape", y, g.int64(self.rows, W, c.channels))
