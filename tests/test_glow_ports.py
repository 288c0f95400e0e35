"""The folded form against each port's own way to compute, on models other than the golden ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from glow_checkpoints import (
    SIGMOID,
    SIZED,
    Graphs,
    chai,
    nf,
    oai,
    open_glow,
    openai_variables,
    ros,
    y0,
)
from tf_files import write_checkpoint
from torch import Tensor

from flowship.export.families.glow import GlowFlags, GlowModel, emit_encode, reference_of

Make = Callable[[Path], Path]

CASES: dict[str, tuple[Make, GlowFlags]] = {
    "rosinality, affine LU": (ros, SIZED),
    "rosinality, additive plain": (partial(ros, affine=False, lu=False), SIZED),
    "rosinality, one level, grey": (partial(ros, K=3, L=1, channels=1), SIZED),
    "rosinality, three levels": (partial(ros, K=1, L=3, lu=False), SIZED),
    "chaiyujin, LU": (chai, GlowFlags()),
    "chaiyujin, plain additive": (partial(chai, permutation="plain", affine=False), GlowFlags()),
    "chaiyujin, learned top and classes": (partial(chai, learn_top=True, classes=4), GlowFlags()),
    "chaiyujin, classes, grey": (partial(chai, classes=2, channels=1, L=1), GlowFlags()),
    "chaiyujin, reverse": (partial(chai, permutation="reverse", K=3), GlowFlags()),
    "y0ast, LU and learned top": (partial(y0, learn_top=True), GlowFlags()),
    "y0ast, plain, classes": (partial(y0, permutation="plain", classes=3), GlowFlags()),
    "y0ast, reverse additive": (partial(y0, permutation="reverse", affine=False), GlowFlags()),
    "y0ast, no sidecar": (partial(y0, sidecar=False, K=1, L=3), GlowFlags()),
    "normflows, sigmoid": (nf, SIGMOID),
    "normflows, sigmoid_inv": (nf, GlowFlags(scale_map="sigmoid_inv")),
    "normflows, exp, leaky": (
        partial(nf, lu=False),
        GlowFlags(scale_map="exp", leaky_slope=0.2),
    ),
    "normflows, shifted": (nf, GlowFlags(scale_map="sigmoid", data_shift=True)),
    "normflows, additive": (partial(nf, affine=False, lu=False, normed=True), GlowFlags()),
    "normflows, classes in actnorm nets": (partial(nf, normed=True, bases="classes"), SIGMOID),
    "normflows, GlowBase": (
        partial(nf, bases="glow", depths=(1, 2, 1)),
        GlowFlags(scale_map="sigmoid", image_size=(16, 8)),
    ),
    "normflows, mixed bases": (partial(nf, bases=("glow classes", "diag"), channels=1), SIGMOID),
    "normflows, one level": (
        partial(nf, depths=(2,), bases="glow classes", size=(8, 16)),
        GlowFlags(scale_map="exp", image_size=(4, 6)),
    ),
    "openai, affine": (oai, SIZED),
    "openai, one level": (partial(oai, L=1), GlowFlags(image_size=(2, 6), n_bits=8)),
    "openai, additive, no learned top": (partial(oai, affine=False, learn_top=False), SIZED),
    "openai, classes": (partial(oai, classes=5, K=1), SIZED),
    "openai, classes without learned top": (partial(oai, classes=2, learn_top=False), SIZED),
    "openai, shuffle": (partial(oai, permutation="shuffle", L=3, K=1), SIZED),
    "openai, reverse, grey": (partial(oai, permutation="reverse", channels=1), SIZED),
}


def _labels(model: GlowModel) -> list[int] | None:
    return [0, model.config.num_classes - 1] if model.config.num_classes else None


def _latents(model: GlowModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = model.config.latent_shapes.values()
    return [torch.randn(2, *s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("case", CASES)
def test_graphs_are_what_the_port_computes(case: str, tmp_path: Path) -> None:
    make, flags = CASES[case]
    model = open_glow(make(tmp_path / "model.pt"), flags)
    graphs, reference, labels = Graphs(model), reference_of(model, torch.float64), _labels(model)
    eps = _latents(model)
    x = graphs.decode(eps, labels)
    assert x.shape == (2, model.config.in_channels, model.config.height, model.config.width)
    torch.testing.assert_close(x, reference.decode(eps, 1.0, labels), rtol=1e-5, atol=1e-5)
    found, logdet = graphs.encode(x, labels)
    wanted, wanted_logdet = reference.encode(x, labels)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(logdet, wanted_logdet, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, eps, rtol=1e-5, atol=2e-5)
    bits = graphs.bits_per_dim(x, labels)
    np.testing.assert_allclose(bits, reference.bits_per_dim(x, labels), atol=1e-5)


@pytest.mark.parametrize("case", ["rosinality, affine LU", "normflows, exp, leaky"])
def test_logdet_is_that_of_the_jacobian(case: str, tmp_path: Path) -> None:
    make, flags = CASES[case]
    size = (4, 4)
    options = {"channels": 1} | ({"size": size} if make is not ros else {})
    model = open_glow(
        make(tmp_path / "model.pt", **options), _sized(flags, None if "size" in options else size)
    )
    graphs = Graphs(model)
    x = graphs.decode(_latents(model))[:1]

    def flat(v: Tensor) -> Tensor:
        eps, _ = graphs.encode(v.reshape(x.shape))
        return torch.cat([e.flatten() for e in eps])

    J = torch.func.jacrev(flat)(x.flatten())
    wanted = torch.linalg.slogdet(J)[1] / x.numel()
    torch.testing.assert_close(graphs.encode(x)[1][0], wanted, rtol=1e-6, atol=1e-6)


def _sized(flags: GlowFlags, size: tuple[int, int] | None) -> GlowFlags:
    return GlowFlags(size, flags.n_bits, flags.scale_map, flags.leaky_slope)


def test_a_class_gives_other_pictures(tmp_path: Path) -> None:
    model = open_glow(chai(tmp_path / "model.pkg", classes=3))
    graphs, eps = Graphs(model), _latents(model)
    first, second = graphs.decode(eps, [0, 0]), graphs.decode(eps, [1, 1])
    assert abs(first - second).max() > 1e-3


def test_moving_averages_are_other_weights(tmp_path: Path) -> None:
    plain = openai_variables()
    averages = {f"{name}/ExponentialMovingAverage": 0.5 * v for name, v in plain.items()}
    slots = {"model/0/0/invconv/W/Adam": plain["model/0/0/invconv/W"], "Variable_3": np.ones(2)}
    both = write_checkpoint(tmp_path / "both", plain | averages | slots)
    halved = {name: 0.5 * v for name, v in plain.items()}
    other = write_checkpoint(tmp_path / "halved", halved)
    only = write_checkpoint(tmp_path / "only", averages)
    ema = GlowFlags(image_size=(8, 16), n_bits=5, weights="ema")
    eps = _latents(open_glow(both, SIZED))
    wanted = Graphs(open_glow(other, SIZED)).decode(eps)
    assert torch.equal(Graphs(open_glow(both, ema)).decode(eps), wanted)
    assert torch.equal(Graphs(open_glow(only, SIZED)).decode(eps), wanted)
    assert not torch.equal(Graphs(open_glow(both, SIZED)).decode(eps), wanted)


def test_a_large_scale_keeps_a_finite_logdet(tmp_path: Path) -> None:
    """log sigmoid(u) is not the logarithm of a sigmoid that is 0."""

    def far(state: dict[str, Tensor]) -> None:
        for name in state:
            if name.endswith("coupling.net.4.conv.bias"):
                state[name][: len(state[name]) // 2] = -300.0

    model = open_glow(ros(tmp_path / "model.pt", change=far), SIZED)
    x = torch.rand(2, 3, 8, 16) - 0.5
    _, logdet = Graphs(model, torch.float32).encode(x)
    assert logdet.isfinite().all() and (logdet < -50).all()


def test_an_additive_model_with_fixed_priors_still_gives_a_logdet(tmp_path: Path) -> None:
    model = open_glow(nf(tmp_path / "model.pt", affine=False))
    assert emit_encode(model.config).outputs["logdet"].shape == ("N",)
    _, logdet = Graphs(model).encode(torch.rand(3, 3, 8, 16))
    assert logdet.shape == (3,) and (logdet == model.logdet_constant).all()


def test_weights_come_step_by_step_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ros(tmp_path / "model.pt")
    whole = Graphs(open_glow(path, SIZED)).weights
    monkeypatch.setattr("flowship.export.families.glow.tensors.PORTION_BYTES", 20_000)
    for name, array in Graphs(open_glow(path, SIZED)).weights.items():
        assert torch.equal(array, whole[name]), name
