"""A network as torch modules that ExecuTorch lowers to XNNPACK.

Plain operators only, so that a program runs in every ExecuTorch build, without the custom operator
library. The KV cache is a mutable buffer of the program: rows are written in place by
``index_put_`` and attention reads all T rows under a mask, so a call costs the same at every
position. Keys are the left operand of their product: XNNPACK packs the right one on every call,
and the query is the small one (1.0 against 1.15 ms for one layer of 768 channels and 1024 rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....runtime.errors import UsageError
from ...graph import Graph, Node, Value
from ...graph.torch_rules import RULES

F32 = torch.float32
# Added to the logits of rows after a patch. Finite, since a row of -inf would give NaN, and within
# the range of float16.
MASKED = {torch.float32: -1e9, torch.float16: -3e4}


class Store(nn.Module):
    """The stored arrays of a stage by name, shared by all methods of its program.

    Attributes:
        dtype: of what is not quantized.
    """

    def __init__(self, floats: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, array in floats.items():
            self.register_parameter(_plain(name), nn.Parameter(array, requires_grad=False))
        (self.dtype,) = {array.dtype for array in floats.values()}
        self.products = nn.ModuleDict()

    def add_product(self, name: str, product: nn.Module) -> None:
        """A module x [..., in] -> [..., out] in place of the product with a quantized matrix."""
        self.products[_plain(name)] = product

    def parameter(self, name: str) -> nn.Parameter:
        return self.get_parameter(_plain(name))

    def product(self, name: str) -> nn.Module | None:
        return dict(self.products.items()).get(_plain(name))


def _plain(name: str) -> str:
    """Parameters of torch modules have no dots in their names."""
    return name.replace(".", "__")


@dataclass(frozen=True)
class Window:
    """What attention has to know of a call.

    Attributes:
        position: int64 [W], of the window's rows.
        mask: [W, T], added to the logits.
        q_scale: [R], or None.
    """

    position: Tensor
    mask: Tensor
    q_scale: Tensor | None


class NetworkModule(nn.Module):
    """Runs the operations of a network in order; subclasses state what is special.

    Args:
        network: with its weights in ``store``.
    """

    def __init__(self, network: Graph, store: Store) -> None:
        super().__init__()
        self.network, self.store = network, store
        self._stored = network.stored

    @property
    def compute(self) -> torch.dtype:
        """The type that it computes in."""
        return self.store.dtype

    def run(self, inputs: Mapping[str, Tensor], window: Window | None = None) -> list[Tensor]:
        """Inputs by name to the outputs."""
        values: dict[Value, Any] = {v: inputs[name] for name, v in self.network.inputs.items()}
        for node in self.network.nodes:
            found = self._run_node(node, [values[v] for v in node.inputs], window)
            outputs = found if isinstance(found, (tuple, list)) else (found,)
            values.update(zip(node.outputs, outputs, strict=True))
        return [values[value] for value in self.network.outputs.values()]

    def _run_node(self, node: Node, inputs: list[Any], window: Window | None) -> Any:
        if node.op == "attention" and window is not None:
            return self.attention(node, inputs, window)
        own = getattr(self, f"run_{node.op}", None)
        if own is not None:
            return own(node, *inputs)
        if node.op not in RULES:
            raise UsageError(f"executorch cannot write the operation {node.op!r}")
        return RULES[node.op](*inputs, **node.attributes)

    def attention(self, node: Node, inputs: list[Any], window: Window) -> Tensor:
        """Attention over the cache."""
        raise UsageError("executorch: this graph has no cache")

    def run_weight(self, node: Node) -> Tensor | None:
        name = node.attributes["name"]  # quantized matrices are read by their products
        return None if self.store.product(name) is not None else self.store.parameter(name)

    def run_constant(self, node: Node) -> Tensor:
        array = torch.from_numpy(node.attributes["array"])
        return array.to(self.compute) if array.is_floating_point() else array

    def run_reshape(self, node: Node, x: Tensor) -> Tensor:
        return x.reshape([-1 if isinstance(s, str) else s for s in node.outputs[0].shape])

    def run_expand(self, node: Node, x: Tensor) -> Tensor:
        return x.expand([-1 if isinstance(s, str) else s for s in node.outputs[0].shape])

    def run_causal_mask(self, node: Node) -> Tensor:
        """Made on each call: as a constant it would take T^2 values in the file."""
        rows = torch.arange(node.attributes["length"], dtype=self.compute)
        return (rows.unsqueeze(-1) - rows).clamp(-1, 0) * -MASKED[self.compute]

    def run_linear(self, node: Node, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        product = self.store.product(self._stored[node.inputs[1]])
        found: Tensor = F.linear(x, weight, *bias) if product is None else product(x)
        return found


class ParallelModule(NetworkModule):
    """A network that one call runs whole; inputs and outputs are float32."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's inputs in order -> its outputs in order."""
        named = zip(self.network.inputs, inputs, strict=True)
        found = self.run({name: x.to(self.compute) for name, x in named})
        return tuple(x.to(F32) for x in found)


class StepModule(NetworkModule):
    """A window of rows over the cache, for one number of branches.

    Computes in the type of the weights; inputs and outputs are float32. Buffers k0_1, v0_1, ...
    [branches * H, T, d]: each number of branches has rows of its own, since a slice of a shared
    buffer would be a copy.
    """

    def __init__(self, network: Graph, store: Store, branches: int) -> None:
        super().__init__(network, store)
        self.branches = branches
        self._layers = {cache: i for i, cache in enumerate(network.caches.values())}
        (rows,) = {cache.rows for cache in self._layers}
        self.rows = nn.Buffer(torch.arange(rows, dtype=F32))
        for cache, i in self._layers.items():
            for n in "kv":
                shape = (branches * cache.kv_heads, cache.rows, cache.head_dim)
                self.register_buffer(f"{n}{i}_{branches}", torch.zeros(shape, dtype=store.dtype))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's inputs [R, W, ...] in order, position int64 [W] and, for two branches,
        q_scale [R], which multiplies the queries -> its one output."""
        count = len(self.network.inputs)
        position, *scale = inputs[count:]
        # 0 up to a patch's own row, -1 after it: arithmetic that XNNPACK has, unlike where.
        hidden = (position.to(F32).unsqueeze(-1) - self.rows).clamp(-1, 0)
        mask = (hidden * -MASKED[self.compute]).to(self.compute)
        window = Window(position, mask, scale[0].to(self.compute) if scale else None)
        named = zip(self.network.inputs, inputs[:count], strict=True)
        (found,) = self.run({name: x.to(self.compute) for name, x in named}, window)
        return found.to(F32)

    def attention(self, node: Node, inputs: list[Any], window: Window) -> Tensor:
        """q, k, v [R, W, C] -> [R, W, C]."""
        q, k, v = inputs
        R, W, C = q.shape
        layer, H = self._layers[node.attributes["cache"]], node.attributes["heads"]
        d = C // H
        q = q * d**-0.5
        if window.q_scale is not None:
            q = q * window.q_scale.reshape(R, 1, 1)
        q, k, v = (
            rows.reshape(R, W, H, d).transpose(1, 2).reshape(R * H, W, d) for rows in (q, k, v)
        )
        keys, values = (self.get_buffer(f"{n}{layer}_{self.branches}") for n in "kv")
        # Not keys[:, position] = k: torch strips leading dimensions of 1 from the value there, and
        # the in-place kernel then refuses its shape.
        torch.ops.aten.index_put_(keys, [None, window.position], k)
        torch.ops.aten.index_put_(values, [None, window.position], v)
        logits = torch.bmm(keys, q.transpose(1, 2)).transpose(1, 2) + window.mask
        y = torch.bmm(logits.softmax(-1), values)
        attended: Tensor = y.reshape(R, H, W, d).transpose(1, 2).reshape(R, W, C)
        return attended

    def run_split(self, node: Node, x: Tensor) -> Any:
        sizes, axis = node.attributes["sizes"], node.attributes["axis"]
        equal = len(set(sizes)) == 1
        return x.chunk(len(sizes), axis) if equal else torch.split(x, sizes, axis)


class GradientModule(NetworkModule):
    """A vector-Jacobian network.

    Matrices are applied in the data type of the weights, everything else is float32. The cotangents
    (inputs ``grad_...``) are divided by their largest magnitude first, so that float16 neither
    over- nor underflows. A product with a matrix that is not transposed, ``torch.mm(grad,
    weight)``, becomes XNNPACK's fully connected operator on the very bytes that the step's
    ``linear`` stores, so nothing lies in the file twice.
    """

    def __init__(self, network: Graph, store: Store) -> None:
        super().__init__(network, store)
        products = [node for node in network.nodes if node.op in ("linear", "linear_back")]
        self._matrices = {value for node in products for value in node.inputs[1:]}

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's inputs in order -> its one output, float32."""
        named = dict(zip(self.network.inputs, inputs, strict=True))
        grads = [name for name in named if name.startswith("grad_")]
        scale = torch.cat([named[name] for name in grads], -1).abs().amax().clamp(min=1e-30)
        (found,) = self.run(named | {name: named[name] / scale for name in grads})
        return found * scale

    @property
    def compute(self) -> torch.dtype:
        return F32

    def run_weight(self, node: Node) -> Tensor:
        """Matrices as they are stored; gains and offsets of norms in float32."""
        array = self.store.parameter(node.attributes["name"])
        return array if node.outputs[0] in self._matrices else array.to(F32)

    def run_linear(self, node: Node, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return F.linear(x.to(weight.dtype), weight, *bias).to(F32)

    def run_linear_back(self, node: Node, grad: Tensor, weight: Tensor) -> Tensor:
        return torch.mm(grad.to(weight.dtype), weight).to(F32)

    def run_matmul(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return torch.bmm(x, y)
