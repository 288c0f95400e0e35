"""Writes a network as a function of an ML program: one rule for each word, with MIL's builder.

The body is float16, because a Core ML state (the KV cache) has no other type; inputs and outputs
are float32, so that the affine update stays exact on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ....runtime.engines.coreml_stage import cache_rows
from ....runtime.errors import UsageError
from ...graph import Dim, Graph, Node, Value
from .cache import WRITES, CacheForm
from .program_text import shorten
from .weights import Packed, add_constant

Var = Any  # a coremltools Var; the package has no type hints
Halfs = npt.NDArray[np.float16]

_UNARY = {  # words that are one operator of one input
    "exp": "exp", "sigmoid": "sigmoid", "tanh": "tanh", "softplus": "softplus", "relu": "relu",
    "silu": "silu", "erf": "erf", "sqrt": "sqrt",
}  # fmt: skip
_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "matmul": "matmul"}
HEADS_FIRST = (0, 2, 1, 3)  # [R, W, H, d] <-> [R, H, W, d]


class Writer:
    """One function on a network whose named lengths have numbers.

    Args:
        weights: every stored array by name, as it is packed.
        lengths: of the names in shapes.
    """

    def __init__(
        self,
        network: Graph,
        weights: Mapping[str, Halfs | Packed],
        lengths: Mapping[str, int],
    ) -> None:
        self.network, self.weights, self.lengths = network, weights, lengths
        self._stored = network.stored
        self.values: dict[Value, Var] = {}

    def build(self, mil: Any, target: Any) -> Any:
        """The finished function.

        Args:
            mil: coremltools' module of that name.
            target: the oldest system that runs it.
        """
        self.mil, self.mb, self.types = mil, mil.Builder, mil.types
        with self.mil.Function(self.placeholders(), opset_version=target) as function:
            self.begin(function.inputs)
            for node in self.network.nodes:
                self.write(node)
            outputs = self.network.outputs.items()
            function.set_outputs(
                [self.mb.cast(x=self.values[v], dtype="fp32", name=name) for name, v in outputs]
            )
            shorten(function)
        return function

    def placeholders(self) -> dict[str, Any]:
        return {
            name: self.mb.placeholder(self.shape(value.shape), dtype=self.types.fp32)
            for name, value in self.network.inputs.items()
        }

    def begin(self, inputs: Mapping[str, Var]) -> None:
        """Take the function's inputs."""
        for name, value in self.network.inputs.items():
            self.values[value] = self.half(inputs, name)

    def half(self, inputs: Mapping[str, Var], name: str) -> Var:
        return self.mb.cast(x=inputs[name], dtype="fp16", name=f"{name}_fp16")

    def shape(self, shape: tuple[Dim, ...]) -> tuple[int, ...]:
        return tuple(self.lengths[s] if isinstance(s, str) else s for s in shape)

    def write(self, node: Node) -> None:
        rule: Callable[[Node], Any] | None = getattr(self, f"write_{node.op}", None)
        if rule:
            found = rule(node)
        elif node.op in _UNARY:
            found = getattr(self.mb, _UNARY[node.op])(x=self.operand(node.inputs[0]))
        elif node.op in _BINARY:
            x, y = map(self.operand, node.inputs)
            found = getattr(self.mb, _BINARY[node.op])(x=x, y=y)
        else:
            raise UsageError(f"coreml cannot write the operation {node.op!r}")
        several = found if isinstance(found, (tuple, list)) else (found,)
        self.values.update(zip(node.outputs, several, strict=True))

    # ---- words ---------------------------------------------------------------------------------

    def write_weight(self, node: Node) -> Var:
        """Who reads it adds it: a constant stands before its use in the text."""
        return None

    def constant(self, value: Value) -> Var:
        """A stored array as a constant."""
        name = self._stored[value]
        return add_constant(self.mil, name, self.weights[name])

    def operand(self, value: Value) -> Var:
        found = self.values[value]
        return self.constant(value) if found is None else found

    def write_constant(self, node: Node) -> Var:
        array = node.attributes["array"]
        return array.astype(np.float16 if array.dtype.kind == "f" else np.int32)

    def write_linear(self, node: Node) -> Var:
        x, *stored = node.inputs
        names = ("weight", "bias")[: len(stored)]
        parts = {name: self.constant(v) for name, v in zip(names, stored, strict=True)}
        return self.mb.linear(x=self.operand(x), **parts)

    def write_layer_norm(self, node: Node) -> Var:
        x, weight, bias = node.inputs
        gamma, beta = self.constant(weight), self.constant(bias)
        epsilon = np.float16(node.attributes["epsilon"])
        return self.mb.layer_norm(
            x=self.operand(x), axes=[-1], gamma=gamma, beta=beta, epsilon=epsilon
        )

    def write_gelu(self, node: Node) -> Var:
        return self.mb.gelu(x=self.operand(node.inputs[0]), mode="EXACT")

    def write_split(self, node: Node) -> Any:
        sizes, axis = node.attributes["sizes"], node.attributes["axis"]
        x = self.operand(node.inputs[0])
        if len(set(sizes)) == 1:
            return self.mb.split(x=x, num_splits=len(sizes), axis=axis)
        return self.mb.split(x=x, split_sizes=list(sizes), axis=axis)

    def write_concat(self, node: Node) -> Var:
        values = [self.operand(value) for value in node.inputs]
        return self.mb.concat(values=values, axis=node.attributes["axis"])

    def write_conv(self, node: Node) -> Var:
        x, *stored = node.inputs
        names, padding = ("weight", "bias")[: len(stored)], node.attributes["padding"]
        parts = {name: self.constant(v) for name, v in zip(names, stored, strict=True)}
        return self.mb.conv(x=self.operand(x), pad_type="custom", pad=[padding] * 4, **parts)

    def write_leaky_relu(self, node: Node) -> Var:
        slope = np.float16(node.attributes["slope"])
        return self.mb.leaky_relu(x=self.operand(node.inputs[0]), alpha=slope)

    def write_sum(self, node: Node) -> Var:
        return self._reduce(self.mb.reduce_sum, node)

    def write_mean(self, node: Node) -> Var:
        return self._reduce(self.mb.reduce_mean, node)

    def _reduce(self, operator: Callable[..., Var], node: Node) -> Var:
        axes, keep = list(node.attributes["axes"]), node.attributes["keepdims"]
        return operator(x=self.operand(node.inputs[0]), axes=axes, keep_dims=keep)

    def write_pixel_shuffle(self, node: Node) -> Var:
        factor = node.attributes["factor"]
        return self.mb.pixel_shuffle(x=self.operand(node.inputs[0]), upscale_factor=factor)

    def write_pixel_unshuffle(self, node: Node) -> Var:
        factor = np.uint32(node.attributes["factor"])
        return self.mb.pixel_unshuffle(x=self.operand(node.inputs[0]), downscale_factor=factor)

    def write_reshape(self, node: Node) -> Var:
        return self.mb.reshape(
            x=self.operand(node.inputs[0]), shape=self.shape(node.outputs[0].shape)
        )

    def write_transpose(self, node: Node) -> Var:
        return self.mb.transpose(x=self.operand(node.inputs[0]), perm=node.attributes["perm"])


class StepWriter(Writer):
    """A window of ``window`` rows in ``rows`` guidance branches, over states of Core ML.

    Inputs beside the network's: mask [1, 1, W, S], position or write (see cache.py), the states
    and, for two branches, q_scale [R, 1, 1, 1].
    """

    def __init__(
        self,
        network: Graph,
        weights: Mapping[str, Halfs | Packed],
        rows: int,
        window: int,
        form: CacheForm,
    ) -> None:
        super().__init__(network, weights, {"R": rows, "W": window})
        self.rows, self.window, self.form = rows, window, form
        self._layers = {cache: i for i, cache in enumerate(network.caches.values())}
        (T,) = {cache.rows for cache in self._layers}
        self.cache_rows = cache_rows(T)
        # One name for one shape in the whole package: the two kinds do not share states.
        self._prefix = "" if rows == 1 else "guided_"
        self._joined = _split_heads(network)

    def placeholders(self) -> dict[str, Any]:
        mb, R, W = self.mb, self.rows, self.window
        fp16, fp32, int32 = self.types.fp16, self.types.fp32, self.types.int32
        inputs = super().placeholders()
        inputs["mask"] = mb.placeholder((1, 1, W, self.cache_rows), dtype=fp32)
        if self.form == "slice":
            inputs["position"] = mb.placeholder((1,), dtype=int32)
        else:
            inputs["write"] = mb.placeholder((1, 1, self.cache_rows, W), dtype=fp32)
        if R == 2:
            inputs["q_scale"] = mb.placeholder((R, 1, 1, 1), dtype=fp32)
        for cache, layer in self._layers.items():
            state = (R, cache.kv_heads, self.cache_rows, cache.head_dim)
            for n in "kv":
                name = f"{self._prefix}{n}_{layer}"
                inputs[name] = mb.state_tensor_placeholder(state, dtype=fp16)
        return inputs

    def begin(self, inputs: Mapping[str, Var]) -> None:
        self._inputs = inputs
        self._mask = self.half(inputs, "mask")
        self._q_scale = self.half(inputs, "q_scale") if self.rows == 2 else None
        self._write = WRITES[self.form](self.mb, inputs, self.window)
        super().begin(inputs)

    def write(self, node: Node) -> None:
        if node not in self._joined.values():
            super().write(node)

    def write_attention(self, node: Node) -> Var:
        mb, R, W = self.mb, self.rows, self.window
        layer = self._layers[node.attributes["cache"]]
        q, k, v = self._heads(node)
        if self._q_scale is not None:
            q = mb.mul(x=q, y=self._q_scale)
        keys = self._commit(f"{self._prefix}k_{layer}", k)
        values = self._commit(f"{self._prefix}v_{layer}", v)
        y = mb.scaled_dot_product_attention(query=q, key=keys, value=values, attn_mask=self._mask)
        width = int(node.outputs[0].shape[-1])
        return mb.reshape(x=mb.transpose(x=y, perm=HEADS_FIRST), shape=(R, W, width))

    def _heads(self, node: Node) -> list[Var]:
        """Queries, keys and values as [R, H, W, d]."""
        mb, R, W = self.mb, self.rows, self.window
        cache, heads, split = (
            node.attributes["cache"],
            node.attributes["heads"],
            self._joined.get(node),
        )
        if node.attributes["kv_heads"] != heads:
            raise UsageError("coreml: shared key heads are repeated by the family")
        if split:
            joined = self.operand(split.inputs[0])
            y = mb.reshape(x=joined, shape=(R, W, 3 * heads, cache.head_dim))
            y = mb.transpose(x=y, perm=HEADS_FIRST)  # queries, keys, values along axis 1
            found: list[Var] = mb.split(x=y, num_splits=3, axis=1)
            return found
        shape = (R, W, heads, cache.head_dim)
        rows = (mb.reshape(x=self.operand(v), shape=shape) for v in node.inputs[:3])
        return [mb.transpose(x=x, perm=HEADS_FIRST) for x in rows]

    def _commit(self, name: str, rows: Var) -> Var:
        """Write the window's rows into a state; returns the whole cache [R, H, S, d]."""
        state = self._inputs[name]
        value = self._write(self.mb.read_state(input=state), rows)
        return self.mb.coreml_update_state(state=state, value=value, name=f"{name}_new")


def _split_heads(network: Graph) -> dict[Node, Node]:
    """Attentions whose queries, keys and values are the three parts of one split, with it: what is
    split then are heads."""
    made = {output: node for node in network.nodes for output in node.outputs}
    uses, found = network.uses(), {}
    for node in network.nodes:
        split = made.get(node.inputs[0]) if node.op == "attention" else None
        if split and split.op == "split" and node.inputs[:3] == split.outputs:
            if any(uses[value] > 1 for value in split.outputs):
                continue
            found[node] = split
    return found
