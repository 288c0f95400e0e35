"""Vector-Jacobian graphs: one reverse rule for each word that a denoised family uses.

Reverse mode over a list of operations. A rule may write its forward part in another way, to keep
what its way back needs (attention keeps its probabilities).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

from ...runtime.errors import UsageError
from .graph import Graph, Node, Value
from .vocabulary import Network, count

Grads = Sequence[Value | None]
Back = Callable[..., Grads]
"""(network, kept, gradients of the outputs, attributes) -> gradients of the inputs."""
Forward = Callable[..., tuple[tuple[Value, ...], Any]]
"""(network, inputs, attributes) -> outputs, kept."""


@dataclass(frozen=True)
class Rule:
    """The way back through a word; ``forward`` is the word itself unless it says otherwise, and
    then what is kept are its inputs and outputs."""

    back: Back
    forward: Forward | None = None


@dataclass(frozen=True)
class Plain:
    """What is kept of a word that has no forward part of its own."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


RULES: dict[str, Rule] = {}


def vector_jacobian(
    graph: Graph, wrt: str, name: str = "vjp", *, recompute: bool = False
) -> Network:
    """The gradient of sum(grad_y * y) over all outputs y with respect to one input.

    Args:
        graph: whose window is the whole sequence.
        wrt: name of the input.
        recompute: keep only the marks of the graph on the way there, and compute each layer again
            on the way back.

    Returns:
        A network with the inputs of ``graph`` and ``grad_<output>`` for each of its outputs, whose
        output is ``grad_<wrt>``.

    Raises:
        UsageError: a word on the way has no reverse rule.
    """
    g = Network(name)
    values = {v: g.input(n, v.shape, v.kind) for n, v in graph.inputs.items()}
    way = _depends_on(graph, graph.inputs[wrt])
    layers = _layers(graph) if recompute else [graph.nodes]
    for layer in layers[:-1]:
        _run(g, layer, values)
    tape = _run(g, layers[-1], values, way)
    grads: dict[Value, Value] = {}
    for n, v in graph.outputs.items():
        _accumulate(g, grads, v, g.input(f"grad_{n}", v.shape))
    _walk_back(g, tape, grads, way)
    for layer in reversed(layers[:-1]):
        _walk_back(g, _run(g, layer, dict(values), way), grads, way)
    g.output(f"grad_{wrt}", grads[graph.inputs[wrt]])
    return without_dead_nodes(g)


Tape = list[tuple[Node, Any]]
"""Operations that the input goes through, each with what its way back needs."""


def _layers(graph: Graph) -> list[list[Node]]:
    """The nodes, cut behind every mark."""
    ends = set(graph.marks)
    layers: list[list[Node]] = [[]]
    for node in graph.nodes:
        layers[-1].append(node)
        if ends.intersection(node.outputs):
            layers.append([])
    return [layer for layer in layers if layer]


def _run(
    g: Network, nodes: Sequence[Node], values: dict[Value, Value], way: Collection[Value] = ()
) -> Tape:
    """Write operations again in ``g``; those on the ``way`` so that one can go back."""
    tape: Tape = []
    for node in nodes:
        inputs = tuple(values[v] for v in node.inputs)
        if any(v in way for v in node.inputs):
            outputs, kept = _forward(g, node, inputs)
            tape.append((node, kept))
        else:
            outputs = _copy(g, node, inputs)
        values.update(zip(node.outputs, outputs, strict=True))
    return tape


def _walk_back(g: Network, tape: Tape, grads: dict[Value, Value], way: Collection[Value]) -> None:
    for node, kept in reversed(tape):
        given = [grads.pop(v, None) for v in node.outputs]
        if all(grad is None for grad in given):
            continue
        back = RULES[node.op].back(g, kept, given, **node.attributes)
        for value, grad in zip(node.inputs, back, strict=True):
            if grad is not None and value in way:
                _accumulate(g, grads, value, grad)


def without_dead_nodes(graph: Network) -> Network:
    """The same network without operations whose results nobody reads."""
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    graph.nodes[:] = reversed(kept)
    read = {node.attributes["name"] for node in kept if node.op == "weight"}
    graph.weights = {name: shape for name, shape in graph.weights.items() if name in read}
    return graph


def _depends_on(graph: Graph, value: Value) -> set[Value]:
    found = {value}
    for node in graph.nodes:
        if found.intersection(node.inputs):
            found.update(node.outputs)
    return found


def _forward(g: Network, node: Node, inputs: tuple[Value, ...]) -> tuple[tuple[Value, ...], Any]:
    if node.op not in RULES:
        known = ", ".join(sorted(RULES))
        raise UsageError(f"the gradient of {node.op!r} is not known, only those of {known}")
    forward = RULES[node.op].forward
    if forward:
        return forward(g, inputs, **node.attributes)
    outputs = _copy(g, node, inputs)
    return outputs, Plain(inputs, outputs)


def _copy(g: Network, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    if node.op == "weight":
        name = node.attributes["name"]
        return (g.weight(name, [int(size) for size in node.outputs[0].shape]),)
    shapes = [v.shape for v in node.outputs]
    kind = node.outputs[0].kind
    return g.node_of(node.op, inputs, shapes, kind=kind, **node.attributes)


def _accumulate(g: Network, grads: dict[Value, Value], value: Value, grad: Value) -> None:
    grads[value] = g.add(grads[value], grad) if value in grads else grad


# ---- rules --------------------------------------------------------------------------------------


def rule(*words: str, forward: Forward | None = None) -> Callable[[Back], Back]:
    """Decorator: the way back through these words."""

    def add(back: Back) -> Back:
        RULES.update(dict.fromkeys(words, Rule(back, forward)))
        return back

    return add


def _shrink(g: Network, grad: Value, like: Value) -> Value:
    """Sum over what a broadcast repeated."""
    extra = grad.rank - like.rank
    if extra:
        grad = g.sum(grad, range(extra))
    axes = [i for i, (a, b) in enumerate(zip(grad.shape, like.shape, strict=True)) if a != b]
    return g.sum(grad, axes, keepdims=True) if axes else grad


@rule("add")
def _add(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    return [_shrink(g, grad, value) for value in kept.inputs]


@rule("sub")
def _sub(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    x, y = kept.inputs
    return [_shrink(g, grad, x), _shrink(g, g.mul(grad, -1.0), y)]


@rule("mul")
def _mul(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    x, y = kept.inputs
    return [_shrink(g, g.mul(grad, y), x), _shrink(g, g.mul(grad, x), y)]


@rule("linear")
def _linear(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)  # weights are constants of the model
    return [g.linear_back(grad, kept.inputs[1]), *[None] * (len(kept.inputs) - 1)]


@rule("matmul")
def _matmul(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    x, y = kept.inputs
    return [g.matmul(grad, _swap(g, y)), g.matmul(_swap(g, x), grad)]


@rule("exp")
def _exp(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    return [g.mul(grad, kept.outputs[0])]


@rule("tanh")
def _tanh(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    y = kept.outputs[0]
    return [g.sub(grad, g.mul(grad, g.mul(y, y)))]


@rule("sigmoid")
def _sigmoid(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    y = kept.outputs[0]
    return [g.mul(grad, g.sub(y, g.mul(y, y)))]


@rule("softplus")
def _softplus(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    return [g.mul(grad, g.apply("sigmoid", kept.inputs[0]))]


@rule("silu")
def _silu(g: Network, kept: Plain, grads: Grads) -> Grads:
    """s + y - y s with s = sigmoid(x), y = x s."""
    (grad,) = _given(grads)
    y, s = kept.outputs[0], g.apply("sigmoid", kept.inputs[0])
    return [g.mul(grad, g.sub(g.add(s, y), g.mul(y, s)))]


@rule("gelu")
def _gelu(g: Network, kept: Plain, grads: Grads) -> Grads:
    """Phi(x) + x phi(x)."""
    (grad,) = _given(grads)
    x = kept.inputs[0]
    cdf = g.add(g.mul(g.apply("erf", g.mul(x, sqrt(0.5))), 0.5), 0.5)
    density = g.mul(g.apply("exp", g.mul(g.mul(x, x), -0.5)), 1 / sqrt(2 * pi))
    return [g.mul(grad, g.add(cdf, g.mul(x, density)))]


@rule("sum")
def _sum(g: Network, kept: Plain, grads: Grads, *, axes: Sequence[int], keepdims: bool) -> Grads:
    (grad,) = _given(grads)
    return [_spread(g, grad, kept.inputs[0], axes)]


@rule("mean")
def _mean(g: Network, kept: Plain, grads: Grads, *, axes: Sequence[int], keepdims: bool) -> Grads:
    (grad,) = _given(grads)
    x = kept.inputs[0]
    return [_spread(g, g.mul(grad, 1 / count([x.shape[axis] for axis in axes])), x, axes)]


def _spread(g: Network, grad: Value, like: Value, axes: Sequence[int]) -> Value:
    shape = [1 if axis in axes else size for axis, size in enumerate(like.shape)]
    return g.expand(g.reshape(grad, shape), like.shape)


@rule("reshape")
def _reshape(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    return [g.reshape(grad, kept.inputs[0].shape)]


@rule("expand")
def _expand(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    return [_shrink(g, grad, kept.inputs[0])]


@rule("transpose")
def _transpose(g: Network, kept: Plain, grads: Grads, *, perm: Sequence[int]) -> Grads:
    (grad,) = _given(grads)
    return [g.transpose(grad, [perm.index(axis) for axis in range(len(perm))])]


@rule("split")
def _split(g: Network, kept: Plain, grads: Grads, *, sizes: Sequence[int], axis: int) -> Grads:
    parts = [
        g.mul(value, 0.0) if grad is None else grad
        for grad, value in zip(grads, kept.outputs, strict=True)
    ]
    return [g.concat(parts, axis)]


@rule("concat")
def _concat(g: Network, kept: Plain, grads: Grads, *, axis: int) -> Grads:
    (grad,) = _given(grads)
    return g.split(grad, [_length(value, axis) for value in kept.inputs], axis)


@rule("softmax")
def _softmax(g: Network, kept: Plain, grads: Grads) -> Grads:
    (grad,) = _given(grads)
    y = kept.outputs[0]
    return [g.mul(y, g.sub(grad, g.sum(g.mul(grad, y), [-1], keepdims=True)))]


@rule("rotary")
def _rotary(g: Network, kept: Plain, grads: Grads, *, heads: int) -> Grads:
    (grad,) = _given(grads)
    _, cos, sin = kept.inputs
    return [g.rotary(grad, cos, g.mul(sin, -1.0), heads=heads), None, None]


# ---- norms: xhat and 1 / sigma are kept ----------------------------------------------------------


def _norm_forward(
    g: Network, inputs: tuple[Value, ...], *, epsilon: float
) -> tuple[tuple[Value, ...], Any]:
    x, weight, *bias = inputs
    centred = g.sub(x, g.mean(x, [-1], keepdims=True)) if bias else x
    variance = g.mean(g.mul(centred, centred), [-1], keepdims=True)
    inverse = g.apply("reciprocal", g.apply("sqrt", g.add(variance, epsilon)))
    xhat = g.mul(centred, inverse)
    y = g.mul(xhat, weight)
    return (g.add(y, bias[0]) if bias else y,), (xhat, inverse, weight, bool(bias))


@rule("layer_norm", "rms_norm", forward=_norm_forward)
def _norm(g: Network, kept: Any, grads: Grads, *, epsilon: float) -> Grads:
    """inverse * (h - mean(h) - xhat * mean(h * xhat)) with h = grad * weight; rms_norm leaves
    mean(h) out."""
    (grad,) = _given(grads)
    xhat, inverse, weight, centred = kept
    h = g.mul(grad, weight)
    along = g.mul(xhat, g.mean(g.mul(h, xhat), [-1], keepdims=True))
    if not centred:
        return [g.mul(g.sub(h, along), inverse), None]
    return [g.mul(g.sub(g.sub(h, g.mean(h, [-1], keepdims=True)), along), inverse), None, None]


# ---- attention over the whole sequence -----------------------------------------------------------


@dataclass(frozen=True)
class _Attention:
    q: Value
    k: Value
    v: Value
    probabilities: Value
    attended: Value
    heads: int
    kv_heads: int
    width: int


def _attention_forward(
    g: Network, inputs: tuple[Value, ...], *, heads: int, kv_heads: int, cache: object
) -> tuple[tuple[Value, ...], Any]:
    q, k, v = inputs
    width, W = _length(q, -1), _length(q, -2)
    queries = g.mul(_to_heads(g, q, heads), (width // heads) ** -0.5)
    keys, values = (_repeated(g, _to_heads(g, x, kv_heads), heads // kv_heads) for x in (k, v))
    logits = g.add(g.matmul(queries, _swap(g, keys)), g.causal_mask(W))
    probabilities = g.softmax(logits)
    attended = g.matmul(probabilities, values)
    kept = _Attention(queries, keys, values, probabilities, attended, heads, kv_heads, width)
    return (_from_heads(g, attended, q),), (kept, q, k)


@rule("attention", forward=_attention_forward)
def _attention(
    g: Network, kept: Any, grads: Grads, *, heads: int, kv_heads: int, cache: object
) -> Grads:
    of, q, k = kept
    grad = _to_heads(g, _given(grads)[0], heads)
    grad_v = g.matmul(_swap(g, of.probabilities), grad)
    # The softmax's row sum(grad_p * p) equals sum(grad * attended) over the head's d values.
    row = g.sum(g.mul(grad, of.attended), [-1], keepdims=True)
    grad_logits = g.mul(of.probabilities, g.sub(g.matmul(grad, _swap(g, of.v)), row))
    grad_q = g.mul(g.matmul(grad_logits, of.k), (of.width // heads) ** -0.5)
    grad_k = g.matmul(_swap(g, grad_logits), of.q)
    shared = heads // kv_heads
    back_k, back_v = (_from_heads(g, _summed(g, x, shared), k) for x in (grad_k, grad_v))
    return [_from_heads(g, grad_q, q), back_k, back_v]


def _to_heads(g: Network, x: Value, heads: int) -> Value:
    """[..., W, H * d] to [..., H, W, d]."""
    *lead, W, _ = x.shape
    y = g.reshape(x, [*lead, W, heads, _length(x, -1) // heads])
    return g.transpose(y, [*range(len(lead)), len(lead) + 1, len(lead), len(lead) + 2])


def _from_heads(g: Network, x: Value, like: Value) -> Value:
    lead = x.rank - 3
    return g.reshape(g.transpose(x, [*range(lead), lead + 1, lead, lead + 2]), like.shape)


def _repeated(g: Network, x: Value, times: int) -> Value:
    """Each head so many times in a row: [..., H, W, d] to [..., H * times, W, d]."""
    if times == 1:
        return x
    *lead, H, W, d = x.shape
    wide = g.expand(g.reshape(x, [*lead, H, 1, W, d]), [*lead, H, times, W, d])
    return g.reshape(wide, [*lead, _length(x, -3) * times, W, d])


def _summed(g: Network, x: Value, times: int) -> Value:
    """The reverse of _repeated()."""
    if times == 1:
        return x
    *lead, _, W, d = x.shape
    return g.sum(g.reshape(x, [*lead, _length(x, -3) // times, times, W, d]), [-3])


def _swap(g: Network, x: Value) -> Value:
    return g.transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def _length(x: Value, axis: int) -> int:
    size = x.shape[axis]
    assert isinstance(size, int), f"{x.name} has the length {size} along {axis}, expected a number"
    return size


def _given(grads: Grads) -> list[Value]:
    return [grad for grad in grads if grad is not None]
