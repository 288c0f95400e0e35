"""What must hold for any flow: round trips, exact log-determinants, the same picture every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONDITIONAL, TRAINED, VOLUME_PRESERVING, Exporter, golden_model
from web_bundles import OwnBundle

from flowship.export.checkpoint import Checkpoint
from flowship.export.options import ConfigOverrides
from flowship.export.reference import ReferenceBlock, reference_decode
from flowship.runtime import Bundle, BundleError, Flow, NonFiniteError, UsageError
from flowship.runtime.decoder import Decoding
from flowship.runtime.engines.base import ENGINES, ARStage, Engine, EngineOptions, Floats
from flowship.runtime.flow import draw_noise
from flowship.runtime.guidance import Guidance
from flowship.runtime.images import patchify, to_uint8
from flowship.runtime.model import Model, to_block_order
from flowship.runtime.plan import Plan
from flowship.runtime.sampler import invert_sequential, invert_windowed
from flowship.runtime.verification import verify_bundle


@pytest.fixture(scope="module")
def trained() -> Iterator[Flow]:
    """The embedded bundle: a trained model."""
    with Flow.open(threads=1) as flow:
        yield flow


def test_round_trip_of_pictures_and_latents(trained: Flow) -> None:
    noise = draw_noise([1, 2, 3], trained.spec)
    images = trained.decode(noise, label="bag")
    z, _ = trained.encode(images, label="bag")
    np.testing.assert_allclose(z, noise, atol=1e-4)  # var is 1
    np.testing.assert_allclose(trained.decode(z, input="z", label="bag"), images, atol=1e-4)


def test_round_trip_with_a_learned_prior(exported: Exporter) -> None:
    golden = golden_model(VOLUME_PRESERVING)
    with Flow.open(exported(golden.checkpoint)) as flow:
        z, logdet = flow.encode(golden.arrays["image"], label=golden.labels)
        again = flow.decode(z, input="z", label=golden.labels)
        np.testing.assert_allclose(again, golden.arrays["image"], atol=1e-5)
        assert (logdet == 0).all()  # volume preserving


def test_logdet_is_the_jacobians(exported: Exporter) -> None:
    """log |det dz/dx| of the whole flow in float64 autograd against the runtime's sum of scales."""
    golden = golden_model("tiny_uncond_model_2_64_2_1_0.10")
    checkpoint = Checkpoint.open(golden.checkpoint)
    spec = checkpoint.config.flow_spec()
    blocks = [ReferenceBlock(checkpoint, block) for block in reversed(spec.ar_blocks)]
    modules = [block.module.double() for block in blocks]

    def encode(x: torch.Tensor) -> torch.Tensor:
        for block, module in zip(blocks, modules, strict=True):
            flip = block.block.permutation == "flip"
            x = x.flip(0) if flip else x
            context = torch.from_numpy(block.context([None])).double()
            xa, xb, _ = module(x[None], context)
            xa, xb = (torch.cat([torch.zeros_like(t[0, :1]), t[0, :-1]]) for t in (xa, xb))
            x = (x - xb) * torch.exp(-xa)
            x = x.flip(0) if flip else x
        return x

    with Flow.open(exported(golden.checkpoint)) as flow:
        images = golden.arrays["image"][:2]
        _, logdet = flow.encode(images)
    for patches, found in zip(patchify(images, spec.image), logdet, strict=True):
        x = torch.from_numpy(patches).double()
        jacobian = torch.autograd.functional.jacobian(encode, x)  # type: ignore[no-untyped-call]
        jacobian = jacobian.reshape(x.numel(), x.numel())
        assert torch.linalg.slogdet(jacobian)[1] / x.numel() == pytest.approx(found, abs=1e-7)


def test_same_seed_same_bytes_whatever_the_threads_and_the_company(trained: Flow) -> None:
    alone = [trained.generate(seed=seed, label=seed % 10, guidance=1.5).images for seed in range(4)]
    together = trained.generate(seed=range(4), label=[0, 1, 2, 3], guidance=1.5).images
    assert np.concatenate(alone).tobytes() == together.tobytes()
    with Flow.open(threads=2) as flow:
        again = flow.generate(seed=range(4), label=[0, 1, 2, 3], guidance=1.5).images
    assert again.tobytes() == together.tobytes()


def test_seeds_and_labels_matter(trained: Flow) -> None:
    base = trained.generate(seed=1, label=1).images
    assert not np.array_equal(base, trained.generate(seed=2, label=1).images)
    assert not np.array_equal(base, trained.generate(seed=1, label=2).images)
    assert not np.array_equal(base, trained.generate(seed=1, label=1, guidance=1).images)


def test_pictures_are_those_of_the_trained_model(trained: Flow) -> None:
    labels = [7, 8]
    noise = draw_noise([7, 8], trained.spec)
    wanted = reference_decode(Checkpoint.open(TRAINED), noise, labels)
    found = patchify(trained.decode(noise, label=labels), trained.spec.image)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


StageOpener = Callable[[Guidance], ARStage]


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0, attn_temp=0.7, annealed=True)])
@pytest.mark.parametrize("window", [2, 5, 48, 100])
def test_windows_give_the_sequential_picture(
    trained: Flow, guidance: Guidance, window: int
) -> None:
    model = Model(trained.bundle, trained.engine)
    z = draw_noise([5], trained.spec)
    names = [block.name for block in trained.spec.ar_blocks]
    windowed = Plan(windows=dict.fromkeys(names, window))
    images, calls = [], []
    for plan in (Plan(), windowed):
        decoding = Decoding(model, z, [3], guidance, plan)
        calls.append(sum(1 for _ in decoding.run()))
        images.append(decoding.state)
    assert calls[1] <= calls[0] == len(names) * (trained.spec.image.num_patches - 1)
    levels = [to_uint8(x).astype(int) for x in images]
    off = np.abs(levels[0] - levels[1])
    assert off.max() <= 1 and (off == 0).mean() >= 0.999


class _Counting:
    """A stage without a network: xa = 0, xb = the patch before; counts its calls."""

    windows: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.calls = 0

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None: ...

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        assert np.isfinite(x).all()
        self.calls += 1
        return np.zeros_like(x)[None], x[None]

    def close(self) -> None: ...


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 50, 10**18])
@pytest.mark.parametrize("num_patches", [1, 2, 4, 9])
def test_sampler_on_a_cumulative_sum(window: int, num_patches: int) -> None:
    """x[t] = z[t] + x[t-1] settles one patch a call: the worst case of every window."""
    z = np.random.default_rng(0).standard_normal((1, num_patches, 2)).astype(np.float32)
    stage, x, guidance = _Counting(), z.copy(), Guidance()
    weights = guidance.weights(num_patches)
    if window == 1:
        committed = list(invert_sequential(stage, x, guidance, weights))
    else:
        committed = list(invert_windowed(stage, x, guidance, weights, window, 1e-5))
    np.testing.assert_allclose(x, np.cumsum(z, 1), rtol=1e-5, atol=1e-5)
    assert stage.calls <= num_patches - 1
    assert committed == sorted(set(committed))
    assert not committed or committed[-1] == num_patches


def test_wild_guesses_do_not_poison_a_window() -> None:
    class Wild(_Counting):
        def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
            super().step(x, position)
            known = position == 0 and np.array_equal(x[0, 0], [1, 1])
            xa = np.full_like(x, 0 if known else 200.0)  # exp overflows on guesses
            xa[:, 0] = 0
            return xa[None], np.zeros_like(x)[None]

    x = np.ones((1, 6, 2), np.float32)
    list(invert_windowed(Wild(), x, Guidance(), Guidance().weights(6), 4, 1e-5))
    assert np.isfinite(x).all()


def test_non_finite_values_are_reported_with_block_and_patch(trained: Flow) -> None:
    noise = draw_noise([1], trained.spec)
    noise[0, 10] = 3e38  # finite, but its square in LayerNorm is not
    with pytest.raises(NonFiniteError, match=r"NaN or infinity in block3 at patch \d+ of 49"):
        trained.decode(noise, label=0)


def test_cached_step_equals_the_full_pass(trained: Flow) -> None:
    model = Model(trained.bundle, trained.engine)
    block = trained.spec.ar_blocks[0]
    x = to_block_order(draw_noise([4], trained.spec), block)
    with model.stage(block, [2]) as stage:
        full = [array.copy() for array in stage.step(x, 0)]
        poison = np.full_like(x, 1e4)
        stage.step(poison, 0)  # every cache row is wrong now
        for p in range(x.shape[1]):
            xa, xb = stage.step(x[:, p : p + 1], p)
            np.testing.assert_allclose(xa[..., 0, :], full[0][..., p, :], atol=1e-5)
            np.testing.assert_allclose(xb[..., 0, :], full[1][..., p, :], atol=1e-5)


def test_denoising_raises_the_likelihood_of_noisy_pictures(trained: Flow) -> None:
    images = trained.generate(seed=[1, 2], label=[7, 8]).images
    before = trained.log_likelihood(images, label=[7, 8]).bits_per_dim
    after = trained.log_likelihood(trained.denoise(images, label=[7, 8]), label=[7, 8]).bits_per_dim
    assert (after < before).all()


def test_labels_are_worth_bits(trained: Flow) -> None:
    from flowship.runtime.pictures import read_labelled

    data = Path(trained.bundle.root).parent / "fashion_mnist_test_512.npz"
    images, labels = read_labelled(data, trained.spec.image, 64)
    assert labels is not None
    right = trained.log_likelihood(images, label=list(labels), noise="train")
    wrong = trained.log_likelihood(images, label=[(i + 1) % 10 for i in labels], noise="train")
    assert right.bits_per_dim.mean() < wrong.bits_per_dim.mean()
    assert "Gaussian training noise of std 0.1" in right.convention
    assert 5.9 < right.bits_per_dim.mean() < 6.6  # 6.22 on 1,000 pictures after training


def test_events_can_be_cancelled(trained: Flow) -> None:
    events = trained.events(seed=1, num_images=2, label=4)
    started, first = next(events), next(events)
    assert type(started).__name__ == "Started" and type(first).__name__ == "Progress"
    assert first.preview().shape == (2, 1, 28, 28)  # type: ignore[union-attr]
    events.close()
    assert len(trained.generate(seed=1).images) == 1  # the flow is still good


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: f.decode(np.zeros((1, 48, 16))), r"\[1, 48, 16\].*\[N, 49, 16\]"),
        (lambda f: f.decode(np.full((1, 49, 16), np.nan)), "NaN"),
        (lambda f: f.decode(np.zeros((1, 49, 16)), input="x"), "neither 'noise' nor 'z'"),
        (lambda f: f.encode(np.zeros((1, 3, 28, 28))), r"\[N, 1, 28, 28\]"),
        (lambda f: f.generate(guidance=-1), "guidance -1"),
        (lambda f: f.generate(guide_what="c"), "guide_what 'c'"),
        (lambda f: f.generate(attn_temp=0), "attn_temp 0"),
        (lambda f: f.generate(label="sneeker"), "'sneaker'"),
        (lambda f: f.generate(label=10), "0 to 9"),
        (lambda f: f.generate(seed=-1), "seed -1"),
        (lambda f: f.generate(seed=1 << 64), "seed"),
        (lambda f: f.generate(num_images=0), "num_images 0"),
        (lambda f: f.generate(seed=[1, 2], num_images=3), "2 seeds for 3"),
        (lambda f: f.log_likelihood(np.zeros((1, 1, 28, 28)), noise="some"), "'some'"),
    ],
)
def test_misuse(trained: Flow, call: Callable[[Flow], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        call(trained)


def test_uniform_models_do_not_denoise(exported: Exporter) -> None:
    golden = golden_model(CONDITIONAL)
    overrides = ConfigOverrides(noise_std="uniform")
    bundle = exported(golden.checkpoint, overrides=overrides, windows=(1, 3))
    with Flow.open(bundle) as flow:
        with pytest.raises(UsageError, match="cannot denoise: its training noise is uniform"):
            flow.generate(denoise=True)
        scored = flow.log_likelihood(golden.arrays["image"], noise="train")
        assert "uniform" in scored.convention


@pytest.mark.parametrize("choice", ["engine", "precision", "device", "threads"])
def test_wrong_choices_list_the_right_ones(choice: str) -> None:
    wrong = {"engine": "tensorrt", "precision": "int3", "device": "tpu", "threads": 0}[choice]
    match = {"engine": "onnx, executorch", "precision": "fp32", "device": "cpu, cuda"}
    with pytest.raises(UsageError, match=match.get(choice, "threads 0")):
        Flow.open(**{choice: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("plan", [Plan({"nowhere": 2}), "default"])
def test_no_engine_stays_open_where_the_plan_is_wrong(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def engine(bundle: Bundle, options: EngineOptions) -> Engine:
        opened.append(ENGINES["onnx"](bundle, options))
        return opened[-1]  # type: ignore[return-value]

    monkeypatch.setitem(ENGINES, "counted", engine)
    monkeypatch.setattr("flowship.runtime.opening.made_for", lambda name: "onnx")
    own = OwnBundle()
    own.put("plan.json", b"{")
    with pytest.raises((UsageError, BundleError), match=r"nowhere|plan\.json"):
        Flow.open(own.write(tmp_path / "own.flowship"), engine="counted", plan=plan)
    assert opened == []


def test_standard_normal_latents_need_no_variances(tmp_path: Path) -> None:
    path = OwnBundle().standard_normal().write(tmp_path / "own.flowship")
    with Flow.open(path, threads=1) as flow:
        noise = draw_noise([3], flow.spec)
        images = flow.decode(noise, label=1)
        np.testing.assert_array_equal(images, flow.decode(noise, input="z", label=1))
        np.testing.assert_array_equal(images, flow.generate(seed=3, label=1).images)
        z, logdet = flow.encode(images, label=1)
        wanted = (0.5 * (z.astype(np.float64) ** 2 + np.log(2 * np.pi))).mean() - logdet
        assert flow.log_likelihood(images, label=1).nll == pytest.approx(wanted)
        assert all(check.passed for check in verify_bundle(flow.bundle, engine="onnx"))
