"""The vector-Jacobian graph of one block: what the score-based denoising step chains.

Written out by hand (reverse mode over the transformer), so that it shares the step graph's weights
file; matrices are applied transposed by Gemm, never copied. It computes in float32 whatever the
weights are stored in; ``unpack_once`` says when quantized matrices become floats. One picture, the
whole sequence, standard operators only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
import onnx
from onnx import TensorProto

from ..families.tarflow import LAYER_NORM_EPSILON, TarFlowConfig
from .onnx_graph import OPSET, Graph, WeightsFile
from .onnx_quantized import OPSET_WITH_4_BITS, unpacked
from .onnx_step import Packed

F32 = TensorProto.FLOAT
MASKED = -1e30  # finite: a row of -inf would give NaN


@dataclass(frozen=True)
class _Normalized:
    """xhat and 1 / sigma of a LayerNorm, kept for the way back."""

    xhat: str
    inverse: str
    name: str


@dataclass(frozen=True)
class _Layer:
    """What a layer's way back needs from its way there."""

    norm1: _Normalized
    q: str
    k: str
    v: str
    probabilities: str
    attended: str
    norm2: _Normalized
    hidden: str


class VjpEmitter:
    """Inputs x [T, D], context [T, C], grad_xa and grad_xb [T, D]; output grad_x [T, D]."""

    def __init__(
        self,
        config: TarFlowConfig,
        weights: WeightsFile,
        packed: Packed,
        precision: str,
        unpack_once: bool,
    ) -> None:
        self.c, self.g, self.half = config, Graph(weights), precision == "fp16"
        self.packed, self.unpack_once = packed, unpack_once

    def build(self) -> onnx.ModelProto:
        c, g = self.c, self.g
        T, D = c.num_patches, c.patch_dim
        x = g.input("x", F32, [T, D])
        context = g.input("context", F32, [T, c.channels])
        grads = [g.input(f"grad_{n}", F32, [T, D]) for n in (("xa", "xb") if c.nvp else ("xb",))]
        self.mask = self._causal_mask()
        h, layers = g.op("Add", self.linear(x, "proj_in"), context), []
        for i in range(c.layers_per_block):
            h, layer = self.forward(h, f"attn_blocks.{i}")
            layers.append(layer)
        grad = g.op("Concat", *grads, axis=1) if c.nvp else grads[0]
        grad = self.linear_back(grad, "proj_out")
        for i, layer in reversed(list(enumerate(layers))):
            grad = self.backward(grad, layer, f"attn_blocks.{i}")
        g.output(self.linear_back(grad, "proj_in"), "grad_x", F32, [T, D])
        return g.model("vjp", OPSET_WITH_4_BITS if self.packed else OPSET)

    # -- pieces ------------------------------------------------------------------------------------

    def scalar(self, value: float) -> str:
        return self.g.constant(value, np.float32)

    def parameter(self, name: str) -> str:
        weight = self.g.weight(name)
        return self.g.op("Cast", weight, to=F32) if self.half else weight

    def matrix(self, name: str) -> str:
        """A weight, [out, in]."""
        if packed := self.packed.get(name):
            return unpacked(self.g, name, packed, once=self.unpack_once)
        return self.parameter(name)

    def linear(self, x: str, name: str) -> str:
        weight, bias = self.matrix(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.g.op("Gemm", x, weight, bias, transB=1)

    def linear_back(self, grad: str, name: str) -> str:
        return self.g.op("Gemm", grad, self.matrix(f"{name}.weight"))

    def mean(self, x: str) -> str:
        return self.g.op("ReduceMean", x, self.g.int64(-1), keepdims=1)

    def layer_norm(self, x: str, name: str) -> tuple[str, _Normalized]:
        g = self.g
        centred = g.op("Sub", x, self.mean(x))
        variance = self.mean(g.op("Mul", centred, centred))
        sigma = g.op("Sqrt", g.op("Add", variance, self.scalar(LAYER_NORM_EPSILON)))
        inverse = g.op("Reciprocal", sigma)
        xhat = g.op("Mul", centred, inverse)
        y = g.op("Mul", xhat, self.parameter(f"{name}.weight"))
        y = g.op("Add", y, self.parameter(f"{name}.bias"))
        return y, _Normalized(xhat, inverse, name)

    def layer_norm_back(self, grad: str, norm: _Normalized) -> str:
        """inverse * (g - mean(g) - xhat * mean(g * xhat)) with g = grad * weight."""
        g = self.g
        grad = g.op("Mul", grad, self.parameter(f"{norm.name}.weight"))
        along = g.op("Mul", norm.xhat, self.mean(g.op("Mul", grad, norm.xhat)))
        grad = g.op("Sub", g.op("Sub", grad, self.mean(grad)), along)
        return g.op("Mul", grad, norm.inverse)

    def heads(self, x: str) -> str:
        """[T, C] -> [H, T, d]."""
        shape = self.g.int64(self.c.num_patches, self.c.num_heads, self.c.head_dim)
        return self.g.op("Transpose", self.g.op("Reshape", x, shape), perm=[1, 0, 2])

    def merge(self, x: str) -> str:
        """[H, T, d] -> [T, C]."""
        y = self.g.op("Transpose", x, perm=[1, 0, 2])
        return self.g.op("Reshape", y, self.g.int64(self.c.num_patches, self.c.channels))

    def swap(self, x: str) -> str:
        return self.g.op("Transpose", x, perm=[0, 2, 1])

    def _causal_mask(self) -> str:
        g, T = self.g, self.c.num_patches
        start, end, one = (g.constant(value, np.int64) for value in (0, T, 1))
        columns = g.op("Range", start, end, one)
        rows = g.op("Unsqueeze", columns, g.int64(1))
        hidden = g.op("Less", rows, columns)
        return g.op("Where", hidden, self.scalar(MASKED), self.scalar(0.0))

    # -- one layer ---------------------------------------------------------------------------------

    def forward(self, h: str, p: str) -> tuple[str, _Layer]:
        g, c = self.g, self.c
        y, norm1 = self.layer_norm(h, f"{p}.attention.norm")
        qkv = self.linear(y, f"{p}.attention.qkv")
        q, k, v = map(self.heads, g.ops("Split", 3, qkv, axis=1, num_outputs=3))
        q = g.op("Mul", q, self.scalar(c.head_dim**-0.5))
        logits = g.op("Add", g.op("MatMul", q, self.swap(k)), self.mask)
        probabilities = g.op("Softmax", logits, axis=-1)
        attended = g.op("MatMul", probabilities, v)
        h = g.op("Add", h, self.linear(self.merge(attended), f"{p}.attention.proj"))
        y, norm2 = self.layer_norm(h, f"{p}.mlp.norm")
        hidden = self.linear(y, f"{p}.mlp.main.0")
        h = g.op("Add", h, self.linear(g.op("Gelu", hidden), f"{p}.mlp.main.2"))
        return h, _Layer(norm1, q, k, v, probabilities, attended, norm2, hidden)

    def backward(self, grad: str, layer: _Layer, p: str) -> str:
        g = self.g
        inner = self.linear_back(grad, f"{p}.mlp.main.2")
        inner = g.op("Mul", inner, self.gelu_slope(layer.hidden))
        inner = self.linear_back(inner, f"{p}.mlp.main.0")
        grad = g.op("Add", grad, self.layer_norm_back(inner, layer.norm2))
        inner = self.attention_back(
            self.heads(self.linear_back(grad, f"{p}.attention.proj")), layer
        )
        inner = self.linear_back(inner, f"{p}.attention.qkv")
        return g.op("Add", grad, self.layer_norm_back(inner, layer.norm1))

    def gelu_slope(self, u: str) -> str:
        """Phi(u) + u phi(u), the derivative of u Phi(u)."""
        g = self.g
        erf = g.op("Erf", g.op("Mul", u, self.scalar(sqrt(0.5))))
        cdf = g.op("Add", g.op("Mul", erf, self.scalar(0.5)), self.scalar(0.5))
        square = g.op("Mul", g.op("Mul", u, u), self.scalar(-0.5))
        density = g.op("Mul", g.op("Exp", square), self.scalar(1 / sqrt(2 * pi)))
        return g.op("Add", cdf, g.op("Mul", u, density))

    def attention_back(self, grad: str, layer: _Layer) -> str:
        """grad [H, T, d] of the attended values to the gradient of qkv [T, 3C]."""
        g = self.g
        grad_v = g.op("MatMul", self.swap(layer.probabilities), grad)
        # The softmax's row sum(grad_p * p) equals sum(grad * attended) over the head's d values.
        row = g.op("ReduceSum", g.op("Mul", grad, layer.attended), g.int64(-1), keepdims=1)
        grad_p = g.op("Sub", g.op("MatMul", grad, self.swap(layer.v)), row)
        grad_logits = g.op("Mul", layer.probabilities, grad_p)
        grad_q = g.op("MatMul", grad_logits, layer.k)
        grad_q = g.op("Mul", grad_q, self.scalar(self.c.head_dim**-0.5))
        grad_k = g.op("MatMul", self.swap(grad_logits), layer.q)
        return g.op("Concat", *map(self.merge, (grad_q, grad_k, grad_v)), axis=1)
