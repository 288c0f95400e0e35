"""Writes a network as an ONNX graph: one rule for each word.

In transformers all rows of all pictures and branches are rows of one matrix between two
attentions: Gemm adds bias or residual stream while it multiplies, and a LayerNormalization of its
own is several times as fast for a window as ONNX Runtime 1.32's SkipLayerNormalization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ....runtime.errors import UsageError
from ...graph import Dim, Graph, Node, Shape, Value
from ...graph.vocabulary import MASKED
from .file import OPSET, GraphFile, WeightsFile
from .quantized import OPSET_WITH_4_BITS, PackedMatrix, quantized_matmul, rows_of, unpacked

F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
Packed = dict[str, PackedMatrix]

_SAME = {  # words that are one operator, and its attributes
    "add": "Add", "sub": "Sub", "mul": "Mul", "exp": "Exp", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "softplus": "Softplus", "relu": "Relu", "gelu": "Gelu", "erf": "Erf", "sqrt": "Sqrt",
    "reciprocal": "Reciprocal", "matmul": "MatMul",
}  # fmt: skip


class Writer:
    """One network with its weights file.

    Attributes:
        kind, dtype: ONNX's and numpy's word for the type it computes in.
        multiplies_codes: by MatMulNBits; otherwise quantized matrices become floats, once when the
            graph is loaded (``unpack_once``) or at each call.
        layers: number of each cache.
    """

    multiplies_codes = False
    unpack_once = True

    def __init__(
        self,
        network: Graph,
        weights: WeightsFile,
        packed: Packed,
        *,
        half: bool,
        cast: bool = False,
    ) -> None:
        """
        Args:
            half: the weights are stored as float16.
            cast: compute in float32 all the same.
        """
        self.network, self.packed = network, packed
        self.g = GraphFile(weights)
        self.stored_half, self.half = half, half and not cast
        self.kind = F16 if self.half else F32
        self.dtype: npt.DTypeLike = np.float16 if self.half else np.float32
        self.layers = {cache: i for i, cache in enumerate(network.caches.values())}
        self.names: dict[Value, str] = {}
        self._cast: dict[str, str] = {}
        self._skips = _residuals(network)
        self.joined = _joined_projections(network)

    def build(self, name: str) -> onnx.ModelProto:
        """The model; ``name`` is that of its graph."""
        self.declare_inputs()
        for node in self.network.nodes:
            self.write(node)
        for name_out, value in self.network.outputs.items():
            y = self.cast(self.unflat(value), F32)
            self.g.output(y, name_out, F32, self.shape(value.shape))
        return self.g.model(name, OPSET_WITH_4_BITS if self.packed else OPSET)

    def declare_inputs(self) -> None:
        for name, value in self.network.inputs.items():
            kind = F32 if value.kind == "float" else I64
            given = self.g.input(name, kind, self.shape(value.shape))
            self.names[value] = self.flat(self.cast(given, self.kind), value)

    def write(self, node: Node) -> None:
        """Write one operation, unless a later one takes it in."""
        if node in self._skips.absorbed or node in self.joined.absorbed:
            return
        rule: Callable[[Node], str | list[str]] | None = getattr(self, f"write_{node.op}", None)
        if rule:
            found = rule(node)
        elif node.op in _SAME:
            found = self.g.op(_SAME[node.op], *map(self.name, node.inputs))
        else:
            raise UsageError(f"onnx cannot write the operation {node.op!r}")
        names = [found] if isinstance(found, str) else found
        self.names.update(zip(node.outputs, names, strict=True))

    # ---- values --------------------------------------------------------------------------------

    def name(self, value: Value) -> str:
        name = self.names[value]
        return self.parameter(name) if name in self.network.weights else name

    def shape(self, shape: Shape) -> list[Dim]:
        return list(shape)

    def cast(self, x: str, kind: int) -> str:
        return self.g.op("Cast", x, to=kind) if self.half else x

    def is_flat(self, value: Value) -> bool:
        """Whether it is kept as rows [rows, C]; graphs with caches keep all they can so."""
        return bool(self.network.caches) and value.rank == 3

    def flat(self, x: str, value: Value) -> str:
        if not self.is_flat(value):
            return x
        return self.g.op("Reshape", x, self.g.int64(-1, int(value.shape[-1])))

    def unflat(self, value: Value) -> str:
        return self.name(value)

    def parameter(self, name: str) -> str:
        """A stored array that is no quantized matrix, in the type it computes in."""
        weight = self.g.weight(name)
        if not self.stored_half or self.half:
            return weight
        if name not in self._cast:
            self._cast[name] = self.g.op("Cast", weight, to=F32)
        return self._cast[name]

    def matrix(self, name: str) -> str:
        """A matrix as floats."""
        packed = self.packed.get(name)
        if packed:
            return unpacked(self.g, name, packed, once=self.unpack_once)
        return self.parameter(name)

    def write_weight(self, node: Node) -> str:
        """Its name; who reads it says how."""
        name: str = node.attributes["name"]
        return name

    def write_constant(self, node: Node) -> str:
        array = node.attributes["array"]
        return self.g.constant(array, self.dtype if array.dtype.kind == "f" else np.int64)

    # ---- products ------------------------------------------------------------------------------

    def write_linear(self, node: Node, skip: str = "") -> str:
        return self.linear(node, skip=skip)

    def linear(
        self, node: Node, *, skip: str = "", sizes: Sequence[int] = (), part: int = 0
    ) -> str:
        """x [rows, in] to [rows, out].

        Args:
            skip: [rows, out], added.
            sizes, part: only this one of the parts that ``out`` is split into.
        """
        g, x = self.g, self.name(node.inputs[0])
        name, *bias = (self.names[value] for value in node.inputs[1:])
        if sizes:
            name, *bias = (self._rows(n, sizes, part) for n in (name, *bias))
        offset = self.parameter(bias[0]) if bias else ""
        packed = self.packed.get(name)
        if packed and self.multiplies_codes:
            y = quantized_matmul(g, x, name, packed, offset)
            return g.op("Add", y, skip) if skip else y
        added = g.op("Add", skip, offset) if skip and offset else skip or offset
        return g.op("Gemm", x, self.matrix(name), *([added] if added else []), transB=1)

    def _rows(self, name: str, sizes: Sequence[int], part: int) -> str:
        """Name one of the parts of a stored array's rows."""
        own, start = f"{name}:{part}", sum(sizes[:part])
        file = self.g.weights
        if own in file.index:
            pass
        elif name in self.packed:
            self.packed[own] = rows_of(file, own, name, self.packed[name], start, sizes[part])
        else:
            file.rows(own, name, start, sizes[part])
        return own

    def write_linear_back(self, node: Node) -> str:
        x, weight = node.inputs
        return self.g.op("Gemm", self.name(x), self.matrix(self.names[weight]))

    def write_add(self, node: Node) -> str:
        taken = self._skips.taken.get(node)
        if taken:
            linear, other = taken
            return self.write_linear(linear, self.name(other))
        return self.g.op("Add", *map(self.name, node.inputs))

    def write_conv(self, node: Node) -> str:
        padding = node.attributes["padding"]
        x, weight, *bias = node.inputs
        kernel = list(weight.shape[2:])
        return self.g.op(
            "Conv",
            self.name(x),
            self.name(weight),
            *map(self.name, bias),
            kernel_shape=kernel,
            pads=[padding] * 4,
        )

    # ---- functions -----------------------------------------------------------------------------

    def write_silu(self, node: Node) -> str:
        x = self.name(node.inputs[0])
        return self.g.op("Mul", x, self.g.op("Sigmoid", x))

    def write_leaky_relu(self, node: Node) -> str:
        return self.g.op("LeakyRelu", self.name(node.inputs[0]), alpha=node.attributes["slope"])

    def write_softmax(self, node: Node) -> str:
        return self.g.op("Softmax", self.name(node.inputs[0]), axis=-1)

    def write_layer_norm(self, node: Node) -> str:
        return self.g.op(
            "LayerNormalization",
            *map(self.name, node.inputs),
            axis=-1,
            epsilon=node.attributes["epsilon"],
        )

    def write_sum(self, node: Node) -> str:
        return self._reduce("ReduceSum", node)

    def write_mean(self, node: Node) -> str:
        return self._reduce("ReduceMean", node)

    def _reduce(self, op: str, node: Node) -> str:
        axes = self.g.int64(*node.attributes["axes"])
        return self.g.op(
            op, self.name(node.inputs[0]), axes, keepdims=int(node.attributes["keepdims"])
        )

    # ---- shapes --------------------------------------------------------------------------------

    def write_reshape(self, node: Node) -> str:
        return self.g.op("Reshape", self.name(node.inputs[0]), self.g.int64(*self._sizes(node)))

    def write_expand(self, node: Node) -> str:
        return self.g.op("Expand", self.name(node.inputs[0]), self.g.int64(*self._sizes(node)))

    def _sizes(self, node: Node) -> list[int]:
        shape = node.outputs[0].shape
        named = [size for size in shape if isinstance(size, str)]
        if len(named) > 1:
            raise UsageError(f"onnx: {node.op} to {list(shape)} has two lengths known at run time")
        return [-1 if isinstance(size, str) else size for size in shape]

    def write_transpose(self, node: Node) -> str:
        return self.g.op("Transpose", self.name(node.inputs[0]), perm=list(node.attributes["perm"]))

    def write_split(self, node: Node) -> list[str]:
        sizes, axis = node.attributes["sizes"], node.attributes["axis"]
        if self.is_flat(node.inputs[0]):
            axis -= 1
        equal = len(set(sizes)) == 1
        x = self.name(node.inputs[0])
        if equal:
            return self.g.ops("Split", len(sizes), x, axis=axis, num_outputs=len(sizes))
        return self.g.ops("Split", len(sizes), x, self.g.int64(*sizes), axis=axis)

    def write_concat(self, node: Node) -> str:
        axis = node.attributes["axis"]
        if self.is_flat(node.inputs[0]):
            axis -= 1
        return self.g.op("Concat", *map(self.name, node.inputs), axis=axis)

    def write_pixel_shuffle(self, node: Node) -> str:
        """A square's values come from (C, f, f), which is ONNX's mode CRD."""
        factor = node.attributes["factor"]
        return self.g.op("DepthToSpace", self.name(node.inputs[0]), blocksize=factor, mode="CRD")

    def write_pixel_unshuffle(self, node: Node) -> str:
        """SpaceToDepth has no mode CRD: [N, C, h, f, w, f] to [N, C, f, f, h, w]."""
        factor, (_, C, H, W) = node.attributes["factor"], node.inputs[0].shape
        h, w = int(H) // factor, int(W) // factor
        x = self.g.op(
            "Reshape", self.name(node.inputs[0]), self.g.int64(-1, int(C), h, factor, w, factor)
        )
        x = self.g.op("Transpose", x, perm=[0, 1, 3, 5, 2, 4])
        return self.g.op("Reshape", x, self.g.int64(-1, int(C) * factor**2, h, w))

    def write_causal_mask(self, node: Node) -> str:
        g = self.g
        start, end, one = (g.constant(v, np.int64) for v in (0, node.attributes["length"], 1))
        columns = g.op("Range", start, end, one)
        hidden = g.op("Less", g.op("Unsqueeze", columns, g.int64(1)), columns)
        masked = g.constant(MASKED if not self.half else -3e4, self.dtype)
        return g.op("Where", hidden, masked, g.constant(0.0, self.dtype))


# ---- what a later operation takes in -------------------------------------------------------------


class _Residuals:
    """Products that a sum takes in: Gemm adds while it multiplies."""

    def __init__(self) -> None:
        self.taken: dict[Node, tuple[Node, Value]] = {}
        self.absorbed: set[Node] = set()


def _residuals(network: Graph) -> _Residuals:
    made = {output: node for node in network.nodes for output in node.outputs}
    order = {node: i for i, node in enumerate(network.nodes)}
    uses, found = network.uses(), _Residuals()
    for node in network.nodes:
        if node.op != "add" or node.inputs[0].shape != node.inputs[1].shape:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            source, other_source = made.get(value), made.get(other)
            if (
                source
                and source.op == "linear"
                and uses[value] == 1
                and source not in found.absorbed
            ):
                assert other_source is None or order[other_source] < order[node]
                found.taken[node] = (source, other)
                found.absorbed.add(source)
                break
    return found


class _Joined:
    """Attentions whose queries, keys and values are parts of one product.

    Attributes:
        sources: the product and the split of each attention.
        absorbed: both; attention writes them in the way that its operator wants.
    """

    def __init__(self) -> None:
        self.sources: dict[Node, tuple[Node, Node]] = {}
        self.absorbed: set[Node] = set()


def _joined_projections(network: Graph) -> _Joined:
    made = {output: node for node in network.nodes for output in node.outputs}
    uses, found = network.uses(), _Joined()
    for node in network.nodes:
        if node.op != "attention" or node.attributes["cache"] is None:
            continue
        split = made.get(node.inputs[0])
        if split is None or split.op != "split" or node.inputs[:3] != split.outputs:
            continue
        linear = made.get(split.inputs[0])
        alone = all(uses[v] == 1 for v in (*split.outputs, split.inputs[0]))
        if linear is not None and linear.op == "linear" and alone:
            found.sources[node] = (linear, split)
            found.absorbed |= {linear, split}
    return found
