"""Attention over a KV cache, in two forms.

``gqa``: ONNX Runtime's GroupQueryAttention; any window, past and present keys bound to one buffer
of T rows, so the cache is updated in place. ``core``: standard operators and static shapes for
providers that have nothing else (Core ML, QNN); the host commits the new rows.
"""

from __future__ import annotations

from onnx import TensorProto

from ....runtime.engines.onnx_forms import has_int8_cache, multiplies_codes
from ...graph import Cache, Dim, Graph, Node, Shape, Value
from .file import WeightsFile
from .writer import F32, Packed, Writer

I32 = TensorProto.INT32


def scale_name(kind: str, layer: int, branches: int) -> str:
    """Steps [branches * C] of the codes of an int8 cache; ``kind`` is k or v."""
    return f"cache_scales.{kind}.{layer}.{branches}"


class GqaWriter(Writer):
    """Any window W, which is dynamic: the network's inputs are [R, W, ...].

    Inputs beside the network's: seqlens_k int32 (position + W - 1 for each row of the cache),
    total_len int32 scalar (position + W), past_{k,v}_l; outputs beside them present_{k,v}_l.

    With one branch R may be several pictures where W = 1 or position = 0 (GroupQueryAttention
    refuses the rest). With two branches inputs are [W, 2, ...] of one picture: a patch's branches
    lie side by side and are heads of one sequence, which works for every W and position. The input
    q_scale [2C] scales the queries, first those of the first branch (attn_temp).

    Args:
        form: one of those of runtime/engines/onnx_forms.py but ``core``.
    """

    def __init__(
        self,
        network: Graph,
        weights: WeightsFile,
        packed: Packed,
        *,
        half: bool,
        branches: int,
        form: str,
    ) -> None:
        super().__init__(network, weights, packed, half=half)
        self.branches, self.form = branches, form
        self.multiplies_codes = multiplies_codes(form)
        self.cache_kind = TensorProto.INT8 if has_int8_cache(form) else self.kind
        self._q_scale = ""

    def declare_inputs(self) -> None:
        g = self.g
        rows: Dim = "R" if self.branches == 1 else 1
        g.input("seqlens_k", I32, [rows])
        g.input("total_len", I32, [])
        for cache, layer in self.layers.items():
            for n in "kv":
                g.input(f"past_{n}_{layer}", self.cache_kind, self._cache_shape(cache))
        if self.branches == 2:
            (width,) = {cache.kv_heads * cache.head_dim for cache in self.layers}
            self._q_scale = self.cast(g.input("q_scale", F32, [2 * width]), self.kind)
        super().declare_inputs()
        if self.branches == 1:
            first = next(iter(self.network.inputs))
            self._leading = g.op("Concat", g.op("Shape", first, end=2), g.int64(-1), axis=0)

    def _cache_shape(self, cache: Cache) -> list[Dim]:
        rows: Dim = "R" if self.branches == 1 else 1
        return [rows, self.branches * cache.kv_heads, "S", cache.head_dim]

    def shape(self, shape: Shape) -> list[Dim]:
        return ["R", "W", *shape[2:]] if self.branches == 1 else ["W", 2, *shape[2:]]

    def unflat(self, value: Value) -> str:
        return self._unflat(self.name(value), int(value.shape[-1]))

    def _unflat(self, x: str, size: int) -> str:
        g = self.g
        if self.branches == 2:
            return g.op("Reshape", x, g.int64(-1, 2, size))
        return g.op("Reshape", x, self._leading)

    def write_attention(self, node: Node) -> str:
        g, cache = self.g, node.attributes["cache"]
        heads, kv_heads = node.attributes["heads"], node.attributes["kv_heads"]
        layer, width = self.layers[cache], int(node.outputs[0].shape[-1])
        inputs = self._projections(node)
        inputs += [f"past_k_{layer}", f"past_v_{layer}", "seqlens_k", "total_len"]
        kinds: dict[str, str | int] = {}
        if has_int8_cache(self.form):
            scales = [g.weight(scale_name(n, layer, self.branches)) for n in "kv"]
            inputs += ["", "", "", "", "", *scales]  # no rotation, position, bias or sink
            kinds = dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
            kinds["kv_cache_bit_width"] = 8
        out, k, v = g.ops(
            "GroupQueryAttention",
            3,
            *inputs,
            domain="com.microsoft",
            **kinds,
            num_heads=self.branches * heads,
            kv_num_heads=self.branches * kv_heads,
            scale=float(cache.head_dim**-0.5),
        )
        for n, value in (("k", k), ("v", v)):
            g.output(value, f"present_{n}_{layer}", self.cache_kind, self._cache_shape(cache))
        return g.op("Reshape", out, g.int64(-1, width))

    def _projections(self, node: Node) -> list[str]:
        """Queries, keys and values, or all of them in the first."""
        g, joined = self.g, self.joined.sources.get(node)
        if joined and self.branches == 1:
            product = joined[0]
            return [self._unflat(self.linear(product), int(product.outputs[0].shape[-1])), "", ""]
        if self.branches == 1:
            return [self._unflat(self.name(v), int(v.shape[-1])) for v in node.inputs[:3]]
        widths = [int(v.shape[-1]) for v in node.inputs[:3]]
        parts = (
            [self.linear(joined[0], sizes=widths, part=i) for i in range(3)]
            if joined
            else [self.name(v) for v in node.inputs[:3]]
        )
        rows = [
            g.op("Reshape", part, g.int64(1, -1, 2 * width))
            for part, width in zip(parts, widths, strict=True)
        ]
        return [g.op("Mul", rows[0], self._q_scale), *rows[1:]]


class CoreWriter(Writer):
    """Static shapes and standard operators only: Add Cast Concat Gelu Gemm LayerNormalization
    MatMul Mul Reshape Softmax Split Transpose (and Slice Sub Unsqueeze on quantized weights, gone
    when the graph is loaded).

    The network's inputs are [R, W, ...]; beside them mask [1, 1, W, T + W] (additive: cache rows,
    then new rows), q_scale [R, 1, 1, 1], past_{k,v}_l [R, H, T, d]; outputs beside them are
    new_{k,v}_l [R, H, W, d], which the host writes into its cache. The softmax runs over both parts
    at once, so the cache is never copied in the graph.
    """

    def __init__(
        self,
        network: Graph,
        weights: WeightsFile,
        packed: Packed,
        *,
        half: bool,
        rows: int,
        window: int,
    ) -> None:
        super().__init__(network, weights, packed, half=half)
        self.rows, self.window = rows, window

    def declare_inputs(self) -> None:
        g, W = self.g, self.window
        (T,) = {cache.rows for cache in self.layers}
        self._mask = self.cast(g.input("mask", F32, [1, 1, W, T + W]), self.kind)
        self._q_scale = self.cast(g.input("q_scale", F32, [self.rows, 1, 1, 1]), self.kind)
        for cache, layer in self.layers.items():
            for n in "kv":
                shape = [self.rows, cache.kv_heads, cache.rows, cache.head_dim]
                g.input(f"past_{n}_{layer}", self.kind, shape)
        super().declare_inputs()

    def shape(self, shape: Shape) -> list[Dim]:
        return [self.rows, self.window, *shape[2:]]

    def unflat(self, value: Value) -> str:
        sizes = self.g.int64(self.rows, self.window, int(value.shape[-1]))
        return self.g.op("Reshape", self.name(value), sizes)

    def write_attention(self, node: Node) -> str:
        g, cache, W = self.g, node.attributes["cache"], self.window
        layer, T, d = self.layers[cache], cache.rows, cache.head_dim
        q, k, v = self._heads(node)
        q = g.op("Mul", q, g.op("Mul", self._q_scale, g.constant(d**-0.5, self.dtype)))
        past_k, new_k = (
            g.op("MatMul", q, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
            for keys in (f"past_k_{layer}", k)
        )
        logits = g.op("Add", g.op("Concat", past_k, new_k, axis=-1), self._mask)
        p_past, p_new = g.ops("Split", 2, g.op("Softmax", logits, axis=-1), g.int64(T, W), axis=-1)
        past, new = g.op("MatMul", p_past, f"past_v_{layer}"), g.op("MatMul", p_new, v)
        for n, value in (("k", k), ("v", v)):
            shape = [self.rows, cache.kv_heads, W, d]
            g.output(value, f"new_{n}_{layer}", self.kind, shape)
        width = int(node.outputs[0].shape[-1])
        attended = g.op("Transpose", g.op("Add", past, new), perm=[0, 2, 1, 3])
        return g.op("Reshape", attended, g.int64(-1, width))

    def _heads(self, node: Node) -> list[str]:
        """Queries, keys and values as [R, H, W, d]."""
        g, cache, joined = self.g, node.attributes["cache"], self.joined.sources.get(node)
        heads, kv_heads = node.attributes["heads"], node.attributes["kv_heads"]
        assert heads == kv_heads, "shared keys are repeated by the family"
        if joined:
            sizes = g.int64(self.rows, self.window, 3 * heads, cache.head_dim)
            y = g.op("Reshape", self.linear(joined[0]), sizes)
            return g.ops("Split", 3, g.op("Transpose", y, perm=[0, 2, 1, 3]), axis=1, num_outputs=3)
        sizes = g.int64(self.rows, self.window, heads, cache.head_dim)
        return [
            g.op("Transpose", g.op("Reshape", self.name(v), sizes), perm=[0, 2, 1, 3])
            for v in node.inputs[:3]
        ]
