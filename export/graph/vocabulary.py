"""The words: every operation that a network is written in, with its shape rule.

Floats are [..., C] with the channels last in transformers and [N, C, H, W] in convolutions. A
number in place of a second operand is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .graph import Cache, Dim, Graph, Shape, Value

ELEMENTWISE = (
    "exp", "sigmoid", "softplus", "tanh", "relu", "gelu", "silu", "erf", "sqrt", "reciprocal",
)  # fmt: skip
"""Functions of one value: ``gelu`` is x Phi(x) with the error function, ``silu`` x sigmoid(x)."""
Operand = Value | float
MASKED = -1e30
"""Added to the logits of later rows; finite, since a row of -inf would give NaN."""


class Network(Graph):
    """A graph with a method for every word."""

    # ---- arithmetic ----------------------------------------------------------------------------

    def add(self, x: Value, y: Operand) -> Value:
        return self._binary("add", x, y)

    def sub(self, x: Value, y: Operand) -> Value:
        return self._binary("sub", x, y)

    def mul(self, x: Value, y: Operand) -> Value:
        return self._binary("mul", x, y)

    def apply(self, function: str, x: Value) -> Value:
        """One of ELEMENTWISE."""
        assert function in ELEMENTWISE, function
        return self.node(function, (x,), x.shape)

    def leaky_relu(self, x: Value, slope: float) -> Value:
        """x where it is positive, else slope * x."""
        return self.node("leaky_relu", (x,), x.shape, slope=slope)

    def sum(self, x: Value, axes: Sequence[int], *, keepdims: bool = False) -> Value:
        return self._reduce("sum", x, axes, keepdims)

    def mean(self, x: Value, axes: Sequence[int], *, keepdims: bool = False) -> Value:
        return self._reduce("mean", x, axes, keepdims)

    # ---- products ------------------------------------------------------------------------------

    def linear(self, x: Value, weight: Value, bias: Value | None = None) -> Value:
        """x [..., in] times the transpose of weight [out, in], plus bias [out]."""
        out, columns = weight.shape
        assert x.shape[-1] == columns, f"linear: {x.shape} and {weight.shape}"
        inputs = (x, weight) if bias is None else (x, weight, bias)
        return self.node("linear", inputs, (*x.shape[:-1], out))

    def linear_back(self, x: Value, weight: Value) -> Value:
        """x [..., out] times weight [out, in]: the transposed product, no copy of the matrix."""
        assert x.shape[-1] == weight.shape[0], f"linear_back: {x.shape} and {weight.shape}"
        return self.node("linear_back", (x, weight), (*x.shape[:-1], weight.shape[1]))

    def matmul(self, x: Value, y: Value) -> Value:
        """[..., i, j] times [..., j, k] with equal leading dimensions."""
        assert x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-2], f"{x.shape}, {y.shape}"
        return self.node("matmul", (x, y), (*x.shape[:-1], y.shape[-1]))

    def conv(
        self, x: Value, weight: Value, bias: Value | None = None, *, padding: int = 0
    ) -> Value:
        """x [N, C, H, W] with weight [out, C, k, k] and bias [out], stride 1, zeros around."""
        N, C, *sizes = x.shape
        out, columns, *kernel = weight.shape
        assert columns == C, f"conv: {x.shape} and {weight.shape}"
        shrunk = [
            size if isinstance(size, str) else size + 2 * padding - int(k) + 1
            for size, k in zip(sizes, kernel, strict=True)
        ]
        inputs = (x, weight) if bias is None else (x, weight, bias)
        return self.node("conv", inputs, (N, out, *shrunk), padding=padding)

    # ---- shapes --------------------------------------------------------------------------------

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """The same values in order; lengths that have names keep them."""
        return self.node("reshape", (x,), tuple(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return self.node("transpose", (x,), tuple(x.shape[i] for i in perm), perm=tuple(perm))

    def split(self, x: Value, sizes: Sequence[int], axis: int) -> tuple[Value, ...]:
        axis %= x.rank
        assert sum(sizes) == x.shape[axis], f"split: {x.shape} into {sizes} along {axis}"
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        return self.node_of("split", (x,), shapes, sizes=tuple(sizes), axis=axis)

    def halves(self, x: Value, axis: int) -> tuple[Value, Value]:
        size = x.shape[axis]
        assert isinstance(size, int) and size % 2 == 0, f"halves: {x.shape} along {axis}"
        first, second = self.split(x, (size // 2, size // 2), axis)
        return first, second

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        axis %= values[0].rank
        size = 0
        for value in values:
            length = value.shape[axis]
            assert isinstance(length, int), f"concat along {length}"
            size += length
        first = values[0].shape
        return self.node("concat", values, (*first[:axis], size, *first[axis + 1 :]), axis=axis)

    def expand(self, x: Value, shape: Sequence[Dim]) -> Value:
        """Repeat along the dimensions of length 1."""
        return self.node("expand", (x,), tuple(shape))

    def pixel_shuffle(self, x: Value, factor: int) -> Value:
        """[N, C * f * f, H, W] to [N, C, H * f, W * f]; a square's values come from (C, f, f)."""
        N, C, H, W = x.shape
        assert isinstance(C, int) and C % factor**2 == 0, f"pixel_shuffle of {C} channels"
        shape = (N, C // factor**2, _times(H, factor), _times(W, factor))
        return self.node("pixel_shuffle", (x,), shape, factor=factor)

    def pixel_unshuffle(self, x: Value, factor: int) -> Value:
        """The inverse of pixel_shuffle."""
        N, C, H, W = x.shape
        assert isinstance(C, int) and isinstance(H, int) and isinstance(W, int), x.shape
        assert H % factor == 0 and W % factor == 0, f"pixel_unshuffle of {H} x {W}"
        shape = (N, C * factor**2, H // factor, W // factor)
        return self.node("pixel_unshuffle", (x,), shape, factor=factor)

    # ---- transformers --------------------------------------------------------------------------

    def softmax(self, x: Value) -> Value:
        """Along the last axis."""
        return self.node("softmax", (x,), x.shape)

    def causal_mask(self, length: int) -> Value:
        """[length, length]: 0 up to the diagonal, MASKED after it; one for each length."""
        for node in self.nodes:
            if node.op == "causal_mask" and node.attributes["length"] == length:
                return node.outputs[0]
        return self.node("causal_mask", (), (length, length), length=length)

    def layer_norm(self, x: Value, weight: Value, bias: Value, epsilon: float) -> Value:
        """Over the last axis, with the biased variance (Ba et al., 2016)."""
        return self.node("layer_norm", (x, weight, bias), x.shape, epsilon=epsilon)

    def rms_norm(self, x: Value, weight: Value, epsilon: float) -> Value:
        """x / sqrt(mean(x^2) + epsilon) * weight over the last axis (Zhang and Sennrich, 2019)."""
        return self.node("rms_norm", (x, weight), x.shape, epsilon=epsilon)

    def rotary(self, x: Value, cos: Value, sin: Value, *, heads: int) -> Value:
        """Rotate pairs (2i, 2i + 1) of each head: x [..., W, heads * d], cos and sin [W, d / 2]."""
        assert x.shape[-1] % heads == 0 if isinstance(x.shape[-1], int) else False, x.shape
        return self.node("rotary", (x, cos, sin), x.shape, heads=heads)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        heads: int,
        kv_heads: int | None = None,
        cache: Cache | None = None,
    ) -> Value:
        """Causal attention of a window's rows, over earlier rows too where there is a cache.

        Args:
            q: [..., W, heads * d]; ``k``, ``v``: [..., W, kv_heads * d]; each key head serves
                heads / kv_heads query heads in a row.
            cache: the window's keys and values are written at ``position`` and read with all before
                them. Without one the window is the whole sequence. Targets scale the queries of
                each guidance branch beside 1 / sqrt(d) (attn_temp).
        """
        width = q.shape[-1]
        assert isinstance(width, int) and width % heads == 0, f"{heads} heads of {width}"
        kv = heads if kv_heads is None else kv_heads
        assert k.shape == v.shape and k.shape[-1] == width // heads * kv, f"{q.shape}, {k.shape}"
        if cache:
            assert cache.name not in self.caches, f"the cache {cache.name} is used twice"
            self.caches[cache.name] = cache
        return self.node("attention", (q, k, v), q.shape, heads=heads, kv_heads=kv, cache=cache)

    # ---- helpers -------------------------------------------------------------------------------

    def _binary(self, op: str, x: Value, y: Operand) -> Value:
        other = y if isinstance(y, Value) else self.constant(float(y))
        return self.node(op, (x, other), broadcast(x.shape, other.shape))

    def _reduce(self, op: str, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
        chosen = tuple(sorted(axis % x.rank for axis in axes))
        shape = tuple(
            1 if i in chosen else size
            for i, size in enumerate(x.shape)
            if keepdims or i not in chosen
        )
        return self.node(op, (x,), shape, axes=chosen, keepdims=keepdims)


def broadcast(x: Shape, y: Shape) -> Shape:
    """The shape of a sum; a length that has a name only goes with itself and with 1."""
    rank = max(len(x), len(y))
    pairs = zip((1,) * (rank - len(x)) + x, (1,) * (rank - len(y)) + y, strict=True)
    found: list[Dim] = []
    for a, b in pairs:
        assert a == b or 1 in (a, b), f"{x} and {y} do not broadcast"
        found.append(b if a == 1 else a)
    return tuple(found)


def count(shape: Sequence[Dim]) -> int:
    """Number of values of a shape without named lengths."""
    assert all(isinstance(size, int) for size in shape), shape
    return prod(size for size in shape if isinstance(size, int))


def _times(size: Dim, factor: int) -> Dim:
    assert isinstance(size, int), f"a named length {size} cannot be multiplied"
    return size * factor
