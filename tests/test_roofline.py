"""What a call costs, and the limits of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from flowship.benchmarks import roofline
from flowship.benchmarks.roofline import (
    CallCost,
    measure_launch_seconds,
    measure_limits,
    measure_read_gbps,
    model_costs,
    network_parameters,
)
from flowship.runtime.bundle import Bundle
from flowship.runtime.errors import BundleError, UsageError
from flowship.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def manifest() -> Iterator[Manifest]:
    with Bundle.open() as bundle:
        yield bundle.manifest


def test_parameters_are_those_of_the_weights_file(manifest: Manifest) -> None:
    for block in manifest.spec.ar_blocks:
        stored = manifest.files[f"onnx/fp32/{block.name}.weights.bin"].bytes / 4
        assert network_parameters(manifest, block) == pytest.approx(stored, rel=0.02)


def test_cost_of_a_sequential_call(manifest: Manifest) -> None:
    """T = 49, 4 layers of 128 channels, by hand."""
    cost = model_costs(manifest, "fp32")["block0"]
    weights = network_parameters(manifest, manifest.spec.ar_blocks[-1])
    assert cost.weight_bytes == 4 * weights
    assert cost.cache_bytes == 2 * 4 * 128 * 4 * (23.5 + 1)  # 0..47 earlier rows, and its own
    assert cost.flops == 2 * weights + 4 * 4 * 128 * 24.5


def test_windows_and_guidance_multiply_work_but_not_weights(manifest: Manifest) -> None:
    one = model_costs(manifest, "fp16")["block0"]
    eight = model_costs(manifest, "fp16", 8)["block0"]
    both = model_costs(manifest, "fp16", 8, guided=True)["block0"]
    assert one.weight_bytes == eight.weight_bytes == both.weight_bytes
    assert eight.flops == pytest.approx(8 * one.flops)
    assert both.flops == 2 * eight.flops and both.cache_bytes == 2 * eight.cache_bytes


def test_windows_are_cut_to_the_picture(manifest: Manifest) -> None:
    assert model_costs(manifest, "fp32", 1000) == model_costs(manifest, "fp32", 48)


def test_precisions_shrink_weights(manifest: Manifest) -> None:
    sizes = [model_costs(manifest, p)["block0"].weight_bytes for p in ("fp32", "fp16", "int8")]
    assert sizes[0] == 2 * sizes[1] and 1.9 < sizes[1] / sizes[2] < 2


def test_rates_reached() -> None:
    cost = CallCost(8e6, 2e6, 5e6, 3e9)
    assert cost.gbps(0.001) == pytest.approx(10.0)
    assert cost.gflops(0.01) == pytest.approx(300.0)


def test_misuse(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="unknown precision 'int3': choose from fp32"):
        model_costs(manifest, "int3")
    with pytest.raises(UsageError, match="window 0 is below 1"):
        model_costs(manifest, "fp32", 0)
    with pytest.raises(UsageError, match="threads 0 is below 1"):
        measure_limits(0)
    silent = replace(manifest, source=replace(manifest.source, num_parameters=None))
    with pytest.raises(BundleError, match="does not say num_parameters"):
        model_costs(silent, "fp32")


@pytest.fixture
def millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a millisecond after the last: everything takes that long."""
    now = count()
    clock = SimpleNamespace(perf_counter=lambda: next(now) / 1000)
    monkeypatch.setattr(roofline, "time", clock)


def test_limits_are_work_by_time(millisecond: None) -> None:
    limits = measure_limits(1, 0.01)
    assert limits.threads == 1
    assert limits.matmul_gflops == pytest.approx(2 * roofline.MATMUL_SIZE**3 / 1e-3 / 1e9)
    assert measure_read_gbps(2, 0.01, 1 << 22) == pytest.approx((1 << 22) / 1e-3 / 1e9)


def test_what_an_empty_call_takes_is_its_launch(millisecond: None) -> None:
    call, operator = measure_launch_seconds(1, 0.01)
    assert call == pytest.approx(1e-3) and operator == pytest.approx(0.0, abs=1e-9)
