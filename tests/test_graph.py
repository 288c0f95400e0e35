"""The vocabulary: shapes, meaning, and gradients against autograd, word by word and as a whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from flowship.export.graph import Cache, Network, Shape, Value, evaluate, vector_jacobian
from flowship.export.graph.reverse import RULES
from flowship.export.graph.vocabulary import ELEMENTWISE
from flowship.runtime.errors import UsageError

Build = Callable[[Network, Value], Value]


def _norm(word: str, g: Network, x: Value) -> Value:
    weight = g.weight("w", (6,))
    if word == "rms_norm":
        return g.rms_norm(x, weight, 1e-3)
    return g.layer_norm(x, weight, g.weight("b", (6,)), 1e-3)


def _attention(g: Network, x: Value, kv_heads: int = 3) -> Value:
    q, rest = g.linear(x, g.weight("q", (6, 6))), 2 * kv_heads
    k, v = (g.linear(x, g.weight(n, (rest, 6))) for n in "kv")
    return g.attention(q, k, v, heads=3, kv_heads=kv_heads)


def _apply(word: str, g: Network, x: Value) -> Value:
    return g.apply(word, x)


def _both_parts(g: Network, x: Value) -> Value:
    a, b = g.halves(x, -1)
    return g.mul(g.apply("exp", a), b)


CASES: dict[str, Build] = {
    "add": lambda g, x: g.add(x, g.weight("w", (6,))),
    "sub": lambda g, x: g.sub(g.weight("w", (6,)), g.mul(x, x)),
    "mul": lambda g, x: g.mul(x, g.mean(x, [-1], keepdims=True)),
    "linear": lambda g, x: g.linear(x, g.weight("w", (4, 6)), g.weight("b", (4,))),
    "matmul": lambda g, x: g.matmul(x, g.transpose(x, (1, 0))),
    "sum": lambda g, x: g.sum(g.mul(x, x), [0]),
    "mean": lambda g, x: g.mean(g.mul(x, x), [0, 1]),
    "reshape": lambda g, x: g.mul(g.reshape(x, (10, 3)), g.weight("w", (3,))),
    "transpose": lambda g, x: g.mul(g.transpose(x, (1, 0)), g.weight("w", (5,))),
    "expand": lambda g, x: g.mul(g.expand(g.mean(x, [0], keepdims=True), x.shape), x),
    "split": _both_parts,
    "split, one part unused": lambda g, x: g.apply("exp", g.halves(x, -1)[0]),
    "concat": lambda g, x: g.mul(g.concat([x, g.mul(x, x)], -1), g.weight("w", (12,))),
    "softmax": lambda g, x: g.mul(g.softmax(x), g.weight("w", (6,))),
    "layer_norm": partial(_norm, "layer_norm"),
    "rms_norm": partial(_norm, "rms_norm"),
    "rotary": lambda g, x: g.rotary(x, g.weight("c", (5, 1)), g.weight("s", (5, 1)), heads=3),
    "attention": _attention,
    "attention, shared keys": lambda g, x: _attention(g, x, kv_heads=1),
    **{word: partial(_apply, word) for word in ELEMENTWISE if word in RULES},
}


def _weight(name: str, shape: Shape) -> torch.Tensor:
    """The same for the same name, whatever else a graph reads."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    sizes = [int(size) for size in shape]
    return torch.randn(sizes, dtype=torch.float64, generator=generator)


def _run(g: Network, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {name: _weight(name, shape) for name, shape in g.weights.items()}
    return evaluate(g, inputs, weights)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_autograds(case: str) -> None:
    g = Network("case")
    g.output("y", CASES[case](g, g.input("x", (5, 6))))
    back = vector_jacobian(g, "x")
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    y = _run(g, {"x": x})["y"]
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (wanted,) = torch.autograd.grad(y, x, grad)
    found = _run(back, {"x": x.detach(), "grad_y": grad})["grad_x"]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_layers_computed_again_give_the_same_gradient() -> None:
    g = Network("case")
    h = g.input("x", (5, 6))
    for _ in range(3):
        h = g.mark(g.add(h, _norm("layer_norm", g, _attention(g, h))))
    g.output("y", g.apply("tanh", h))
    kept, again = (vector_jacobian(g, "x", recompute=r) for r in (False, True))
    assert len(again.nodes) > len(kept.nodes)
    inputs = {name: torch.randn(5, 6, dtype=torch.float64) for name in ("x", "grad_y")}
    found = [_run(g, inputs)["grad_x"] for g in (kept, again)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_every_reverse_rule_has_a_case() -> None:
    assert {case.split(",")[0] for case in CASES} >= set(RULES)


def test_a_word_without_a_reverse_rule_is_named() -> None:
    g = Network("case")
    g.output("y", g.apply("relu", g.input("x", (2, 2))))
    with pytest.raises(UsageError, match="gradient of 'relu' is not known"):
        vector_jacobian(g, "x")


def test_what_does_not_depend_on_the_input_needs_no_rule_and_dead_words_go() -> None:
    g = Network("case")
    x, c = g.input("x", (2, 2)), g.input("c", (2, 2))
    g.output("y", g.mul(x, g.apply("relu", c)))
    back = vector_jacobian(g, "x")
    assert [node.op for node in back.nodes] == ["relu", "mul"]


def test_named_lengths_are_taken_from_the_inputs() -> None:
    g = Network("case")
    x = g.input("x", ("N", "W", 6))
    g.output("y", g.reshape(g.reshape(x, ("N", "W", 2, 3)), ("N", "W", 6)))
    x_given = torch.randn(2, 7, 6)
    assert torch.equal(_run(g, {"x": x_given})["y"], x_given)


def test_a_stored_array_is_one_value_and_has_one_shape() -> None:
    g = Network("case")
    assert g.weight("w", (2,)) is g.weight("w", (2,))
    with pytest.raises(AssertionError, match="asked for as"):
        g.weight("w", (3,))


def test_a_cache_is_used_once() -> None:
    g, cache = Network("case"), Cache("0", 8, 1, 6)
    x = g.input("x", ("W", 6))
    g.attention(x, x, x, heads=1, cache=cache)
    assert g.caches == {"0": cache}
    with pytest.raises(AssertionError, match="used twice"):
        g.attention(x, x, x, heads=1, cache=cache)


def test_convolution_shapes_and_squeeze() -> None:
    g = Network("case")
    x = g.input("x", ("N", 2, 4, 6))
    y = g.conv(g.pixel_unshuffle(x, 2), g.weight("w", (3, 8, 3, 3)), padding=1)
    g.output("y", y)
    assert y.shape == ("N", 3, 2, 3)
    back = g.pixel_shuffle(g.pixel_unshuffle(x, 2), 2)
    g.output("same", back)
    given = torch.arange(96.0, dtype=torch.float64).reshape(2, 2, 4, 6)
    found = _run(g, {"x": given})
    assert torch.equal(found["same"], given) and found["y"].shape == (2, 3, 2, 3)


def test_constants_keep_integers_apart() -> None:
    g = Network("case")
    assert g.constant(np.arange(3)).kind == "int"
    assert g.constant([0.5]).kind == "float"
