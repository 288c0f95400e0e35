"""The baseline computes what the reference does, and the comparison is a fair one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONDITIONAL, GOLDEN, TRAINED, GoldenModel, golden_model

from flowship.benchmarks.baseline import Baseline, Schedule
from flowship.benchmarks.ratio import measure_ratio, ratio_text, take_turns
from flowship.runtime.errors import CheckpointError, MissingExtraError, UsageError
from flowship.runtime.flow import Flow
from flowship.runtime.guidance import Guidance

OPTIONS = {
    "x_g0": Guidance(),
    "x_g1.5": Guidance(1.5),
    "x_g1.5_annealed": Guidance(1.5, annealed=True),
    "x_g1.5_a": Guidance(1.5, "a"),
    "x_g1.5_b": Guidance(1.5, "b"),
    "x_g1.5_temp0.7": Guidance(1.5, attn_temp=0.7),
    "x_g0.8_temp0.5": Guidance(0.8, attn_temp=0.5),
    "x_g1.5_annealed_temp0.7": Guidance(1.5, annealed=True, attn_temp=0.7),
}
EXACT = Schedule(tough_windows=4, tough_sweeps=1000, sweeps=1000, clip=1e4)


def test_reference_images(golden: GoldenModel) -> None:
    baseline = Baseline(golden.checkpoint)
    names = [name for name in golden.arrays if name in OPTIONS]
    assert names
    for name in names:
        found = baseline.sequential(golden.arrays["noise"], golden.labels, OPTIONS[name])
        np.testing.assert_allclose(found, golden.arrays[name], rtol=0, atol=1e-4, err_msg=name)


def test_gs_jacobi_with_enough_sweeps_is_exact(golden: GoldenModel) -> None:
    baseline = Baseline(golden.checkpoint)
    for name in {"x_g0", "x_g1.5", "x_g1.5_annealed"} & golden.arrays.keys():
        noise = golden.arrays["noise"]
        found = baseline.gs_jacobi(noise, golden.labels, OPTIONS[name], EXACT)
        np.testing.assert_allclose(found, golden.arrays[name], rtol=0, atol=1e-4, err_msg=name)


def test_noise_and_the_number_of_threads_stay_as_they_were() -> None:
    golden = golden_model(CONDITIONAL)
    noise, threads = golden.arrays["noise"].copy(), torch.get_num_threads()
    Baseline(golden.checkpoint, threads + 1).sequential(noise, golden.labels)
    np.testing.assert_array_equal(noise, golden.arrays["noise"])
    assert torch.get_num_threads() == threads


def test_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads 0 is below 1"):
        Baseline(TRAINED, 0)
    with pytest.raises(UsageError, match="at least 1"):
        Schedule(sweeps=0)
    (tmp_path / "x.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        Baseline(tmp_path / "x.pth")


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"flowship\[export\]"):
        Baseline(TRAINED)


def test_runs_take_turns_and_warm_up_does_not_count() -> None:
    order: list[str] = []

    def run(name: str) -> Any:
        def once() -> Any:
            order.append(name)
            return np.zeros(1, np.float32)

        return once

    samples, images = take_turns({"a": run("a"), "b": run("b")}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert {name: len(found) for name, found in samples.items()} == {"a": 2, "b": 2}
    assert images.keys() == {"a", "b"}


def test_ratio_on_the_embedded_model() -> None:
    """The images are the same; how much faster ours is, a busy test machine cannot say."""
    with Flow.open(threads=1, plan="default") as flow:
        found = measure_ratio(
            flow, TRAINED, guidance=2.0, label=7, rounds=1, warm_up=1, threads=(1,)
        )
    assert found.baseline.max_abs_error < 1e-4
    assert found.baseline.differing_8bit < 1e-3
    assert found.ratio > 1
    assert f"as fast as {found.baseline.name}" in ratio_text(found)


def test_other_weights_are_not_compared() -> None:
    with (
        Flow.open(threads=1) as flow,
        pytest.raises(UsageError, match="only the same weights compare"),
    ):
        measure_ratio(flow, GOLDEN / f"{CONDITIONAL}.pth")
