"""Random GLOW checkpoints of the five ports, with the names and shapes that they save."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tf_files import write_checkpoint
from torch import Tensor

from flowship.export.families.glow import (
    CONDITION,
    GlowFlags,
    GlowModel,
    emit_decode,
    emit_encode,
    read_glow,
    weight_arrays,
)
from flowship.export.graph import evaluate
from flowship.export.sources.sidecars import sidecars
from flowship.export.sources.tf_checkpoint import open_tensorflow
from flowship.export.sources.torch_file import TorchFile

State = dict[str, Any]
Permutation = Literal["lu", "plain", "reverse", "shuffle"]


def open_glow(path: Path, flags: GlowFlags | None = None) -> GlowModel:
    """As an export reads it."""
    return read_glow(open_tensorflow(path) or TorchFile(path), path.name, flags, sidecars(path))


class Graphs:
    """Both graphs of a model with its weights."""

    def __init__(self, model: GlowModel, dtype: torch.dtype = torch.float64) -> None:
        self.model, self.dtype = model, dtype
        self.decoder, self.encoder = emit_decode(model.config), emit_encode(model.config)
        self.weights = {name: torch.from_numpy(array) for name, array in weight_arrays(model)}
        self.constant = model.logdet_constant

    def decode(self, eps: Sequence[Tensor], labels: Sequence[int] | None = None) -> Tensor:
        inputs = {f"eps{i}": e.to(self.dtype) for i, e in enumerate(eps)}
        return evaluate(self.decoder, inputs | self._condition(labels), self.weights)["x"]

    def encode(self, x: Tensor, labels: Sequence[int] | None = None) -> tuple[list[Tensor], Tensor]:
        """Latents, and the whole log-determinant."""
        inputs = {"x": x.to(self.dtype)} | self._condition(labels)
        found = evaluate(self.encoder, inputs, self.weights)
        eps = [found[name] for name in self.model.config.latent_shapes]
        return eps, found["logdet"] + self.constant

    def bits_per_dim(
        self, x: Tensor, labels: Sequence[int] | None = None
    ) -> npt.NDArray[np.float64]:
        eps, logdet = self.encode(x, labels)
        return self.model.bits_per_dim(
            [e.double().numpy() for e in eps], logdet.double().numpy() - self.constant
        )

    def _condition(self, labels: Sequence[int] | None) -> dict[str, Tensor]:
        if not self.model.config.num_classes:
            return {}
        rows = torch.eye(self.model.config.num_classes, dtype=self.dtype)
        return {CONDITION: rows[torch.as_tensor(labels).long()]}


@dataclass
class Random:
    """Values from one generator, so that a checkpoint is the same each time."""

    generator: torch.Generator

    @classmethod
    def seeded(cls, seed: int = 0) -> Random:
        return cls(torch.Generator().manual_seed(seed))

    def __call__(self, *shape: int, std: float = 0.1, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(shape, generator=self.generator)

    def orthogonal(self, C: int) -> Tensor:
        q: Tensor = torch.linalg.qr(self(C, C))[0]
        return q + self(C, C, std=0.02)

    def lu(self, C: int) -> dict[str, Tensor]:
        """With ones on the stored diagonal of L, as the ports' own start leaves them."""
        P, L, U = torch.linalg.lu(self.orthogonal(C))
        s = U.diag()
        return {"p": P, "l": L, "u": U.triu(1), "sign": s.sign(), "log_s": s.abs().log()}


def write_rosinality(
    path: Path,
    *,
    K: int = 2,
    L: int = 2,
    channels: int = 3,
    width: int = 8,
    affine: bool = True,
    lu: bool = True,
    change: Callable[[State], None] | None = None,
) -> Path:
    r, state = Random.seeded(1), {}

    def zero_conv(prefix: str, rows: int, columns: int) -> None:
        state[f"{prefix}conv.weight"] = r(rows, columns, 3, 3, std=0.02)
        state[f"{prefix}conv.bias"] = r(rows)
        state[f"{prefix}scale"] = r(1, rows, 1, 1)

    for i in range(L):
        C = channels * 4 << i
        for k in range(K):
            p = f"blocks.{i}.flows.{k}."
            state[f"{p}actnorm.loc"] = r(1, C, 1, 1)
            state[f"{p}actnorm.scale"] = r(1, C, 1, 1, mean=1.2) * (-1) ** k
            state[f"{p}actnorm.initialized"] = torch.tensor(1, dtype=torch.uint8)
            if lu or i == L - 1:
                names = {"p": "w_p", "l": "w_l", "u": "w_u", "sign": "s_sign", "log_s": "w_s"}
                state |= {f"{p}invconv.{names[n]}": t for n, t in r.lu(C).items()}
                for name in ("u_mask", "l_mask", "l_eye"):
                    state[f"{p}invconv.{name}"] = torch.ones(C, C)
            else:
                state[f"{p}invconv.weight"] = r.orthogonal(C)[:, :, None, None]
            state[f"{p}coupling.net.0.weight"] = r(width, C // 2, 3, 3)
            state[f"{p}coupling.net.0.bias"] = r(width)
            state[f"{p}coupling.net.2.weight"] = r(width, width, 1, 1)
            state[f"{p}coupling.net.2.bias"] = r(width)
            zero_conv(f"{p}coupling.net.4.", C if affine else C // 2, width)
        zero_conv(f"blocks.{i}.prior.", *((2 * C, C) if i == L - 1 else (C, C // 2)))
    return _save(path, {f"module.{name}": tensor for name, tensor in state.items()}, change)


def write_flow_layers(
    path: Path,
    port: Literal["chaiyujin", "y0ast"],
    *,
    K: int = 2,
    L: int = 2,
    channels: int = 3,
    size: tuple[int, int] = (8, 16),
    width: int = 8,
    affine: bool = True,
    permutation: Permutation = "lu",
    learn_top: bool = False,
    classes: int = 0,
    sidecar: bool = True,
    change: Callable[[State], None] | None = None,
) -> Path:
    """With ``hparams.json`` beside it where ``sidecar`` says so."""
    r, state, own = Random.seeded(2), {}, port == "chaiyujin"
    net, inner, linear = ("f", "", "") if own else ("block", "conv.", "linear.")

    def zero_conv(prefix: str, rows: int, columns: int) -> None:
        state[f"{prefix}{inner}weight"] = r(rows, columns, 3, 3, std=0.02)
        state[f"{prefix}{inner}bias"] = r(rows)
        state[f"{prefix}logs"] = r(rows, 1, 1)

    def actnorm(prefix: str, C: int) -> None:
        state[f"{prefix}actnorm.bias"] = r(1, C, 1, 1)
        state[f"{prefix}actnorm.logs"] = r(1, C, 1, 1)

    number = 0
    for i in range(L):
        C = channels * 4 << i
        for _ in range(K):
            number += 1
            p = f"flow.layers.{number}."
            actnorm(p, C)
            if permutation == "plain":
                state[f"{p}invconv.weight"] = r.orthogonal(C)
            elif permutation == "lu":
                names = {"p": "p", "sign": "sign_s", "log_s": "log_s"}
                names |= {"l": "l", "u": "u"} if own else {"l": "lower", "u": "upper"}
                state |= {f"{p}invconv.{names[n]}": t for n, t in r.lu(C).items()}
            state[f"{p}{net}.0.{inner}weight"] = r(width, C // 2, 3, 3)
            actnorm(f"{p}{net}.0.", width)
            state[f"{p}{net}.2.{inner}weight"] = r(width, width, 1, 1)
            actnorm(f"{p}{net}.2.", width)
            zero_conv(f"{p}{net}.4.", C if affine else C // 2, width)
        number += 1
        if i < L - 1:
            zero_conv(f"flow.layers.{number}.conv.", C, C // 2)
            number += 1  # the next level's squeeze
    state["prior_h"] = torch.zeros(2 if own else 1, 2 * C, size[0] >> L, size[1] >> L)
    if learn_top:
        zero_conv("learn_top." if own else "learn_top_fn.", 2 * C, 2 * C)
    if classes:
        state |= _class_layers(r, linear, 2 * C, C, classes)
    if sidecar:
        found: State = {
            "K": K,
            "L": L,
            "LU_decomposed": permutation == "lu",
            "flow_coupling": "affine" if affine else "additive",
            "flow_permutation": permutation if permutation in ("reverse", "shuffle") else "invconv",
            "hidden_channels": width,
            "learn_top": learn_top,
            "y_condition": classes > 0,
        }
        _write_hparams(
            path, {"Glow": {**found, "image_shape": [*size, channels]}} if own else found
        )
    if change:
        change(state)
    wrapped = {"graph": state, "optim": {"state": {0: {}}}} if own else state
    return _save(path, wrapped)


def _class_layers(r: Random, linear: str, rows: int, C: int, classes: int) -> State:
    state: State = {}
    for name, out, columns in (("ycond", rows, classes), ("class", classes, C)):
        state[f"project_{name}.{linear}weight"] = r(out, columns)
        state[f"project_{name}.{linear}bias"] = r(out)
        state[f"project_{name}.logs"] = r(out)
    return state


def _write_hparams(path: Path, hparams: State) -> None:
    path.with_name("hparams.json").write_text(json.dumps(hparams))


Base = Literal["diag", "classes", "glow", "glow classes"]


def write_normflows(
    path: Path,
    *,
    depths: Sequence[int] = (2, 1),
    channels: int = 3,
    size: tuple[int, int] = (8, 16),
    width: int = 8,
    affine: bool = True,
    lu: bool = True,
    normed: bool = False,
    bases: Base | Sequence[Base] = "diag",
    classes: int = 3,
    change: Callable[[State], None] | None = None,
) -> Path:
    """``depths`` and ``bases`` from the finest level to the top."""
    r, L = Random.seeded(3), len(depths)
    state: State = {}
    for i, K in enumerate(depths):
        C, own = channels * 4 << i, L - 1 - i
        for k in range(K):
            p = f"flows.{own}.{k}.flows."
            state |= _normflows_net(r, f"{p}0.flows.1.param_map.net.", C, width, affine, normed)
            if lu:
                names = {"p": "P", "l": "L", "u": "U", "sign": "sign_S", "log_s": "log_S"}
                state |= {f"{p}1.{names[n]}": t for n, t in r.lu(C).items()}
                state[f"{p}1.eye"] = torch.eye(C)
            else:
                state[f"{p}1.W"] = r.orthogonal(C)
            state[f"{p}2.s"], state[f"{p}2.t"] = r(1, C, 1, 1), r(1, C, 1, 1)
            state[f"{p}2.data_dep_init_done"] = torch.tensor(1.0)
        base = bases if isinstance(bases, str) else bases[i]
        C = C if i == L - 1 else C // 2
        place = (size[0] >> (i + 1), size[1] >> (i + 1))
        for name in ("loc", "log_scale"):
            q = f"q0.{own}.{name}"
            if base == "diag":
                state[q] = r(1, C, *place)
            elif base == "classes":
                state[q] = r(C, *place, classes)
            else:
                state[q], state[f"{q}_logs"] = r(1, C, 1, 1), r(1, C, 1, 1)
            if base == "glow classes":
                state[f"{q}_cc"] = r(classes, C)
    return _save(path, state, change)


def _normflows_net(
    r: Random, p: str, C: int, width: int, affine: bool, normed: bool
) -> dict[str, Tensor]:
    shapes = [(width, C // 2, 3, 3), (width, width, 1, 1), (C if affine else C // 2, width, 3, 3)]
    state = {}
    for j, shape in enumerate(shapes):
        number = j * (3 if normed else 2)
        state[f"{p}{number}.weight"] = r(*shape, std=0.05)
        if normed and j < 2:
            a = f"{p}{number + 1}.actNorm."
            state[f"{a}s"], state[f"{a}t"] = r(1, width, 1, 1), r(1, width, 1, 1)
            state[f"{a}data_dep_init_done"] = torch.tensor(1.0)
        else:
            state[f"{p}{number}.bias"] = r(shape[0])
    return state


def openai_variables(
    *,
    K: int = 2,
    L: int = 2,
    channels: int = 3,
    width: int = 8,
    affine: bool = True,
    permutation: Permutation = "plain",
    learn_top: bool = True,
    classes: int = 0,
) -> dict[str, npt.NDArray[Any]]:
    """Names and values, with the model's scope before them."""
    r, state = Random.seeded(4), {}

    def zero_conv(prefix: str, columns: int, rows: int) -> None:
        state[f"{prefix}W"] = r(3, 3, columns + 1, rows, std=0.02)
        state[f"{prefix}b"], state[f"{prefix}logs"] = r(1, 1, 1, rows), r(1, rows)

    def actnorm(prefix: str, C: int) -> None:
        state[f"{prefix}actnorm_center/b"] = r(1, 1, 1, C)
        state[f"{prefix}actnorm_scale/logs"] = r(1, 1, 1, C)

    for i in range(L):
        C = channels * 4 << i
        for k in range(K):
            p = f"{i}/{k}/"
            actnorm(p, C)
            if permutation == "plain":
                state[f"{p}invconv/W"] = r.orthogonal(C)
            elif permutation == "shuffle":
                order = torch.randperm(C, generator=r.generator).int()
                state[f"{p}shuffle/indices"] = order
                state[f"{p}shuffle/indices_inverse"] = order.argsort().int()
            state[f"{p}f1/l_1/W"] = r(3, 3, C // 2 + 1, width)
            state[f"{p}f1/l_2/W"] = r(1, 1, width, width)
            actnorm(f"{p}f1/l_1/", width)
            actnorm(f"{p}f1/l_2/", width)
            zero_conv(f"{p}f1/l_last/", width, C if affine else C // 2)
        if i < L - 1:
            zero_conv(f"pool{i}/conv/", C // 2, C)
    if learn_top:
        zero_conv("prior/p/", 2 * C, 2 * C)
    if classes:
        state["prior/y_emb/W"] = r(classes, 2 * C)
        state["prior/y_emb/b"], state["prior/y_emb/logs"] = r(1, 2 * C), r(1, 2 * C)
        state["classifier/W"] = r(C, classes)
        state["classifier/b"], state["classifier/logs"] = r(1, classes), r(1, classes)
    return {f"model/{name}": tensor.numpy() for name, tensor in state.items()}


def write_openai(prefix: Path, **options: Any) -> Path:
    return write_checkpoint(prefix, openai_variables(**options))


def _save(path: Path, state: State, change: Callable[[State], None] | None = None) -> Path:
    if change:
        change(state)
    torch.save(state, path)
    return path


# ---- for tables of cases ------------------------------------------------------------------------

ros, oai, nf = write_rosinality, write_openai, write_normflows
chai = partial(write_flow_layers, port="chaiyujin")
y0 = partial(write_flow_layers, port="y0ast")
SIZED = GlowFlags(image_size=(8, 16), n_bits=5)
SIGMOID = GlowFlags(scale_map="sigmoid")
