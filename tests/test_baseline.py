"""The baseline computes what the reference does, and the comparison is a fair one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Terminal
from conftest import CONDITIONAL, GOLDEN, TRAINED, GoldenModel, golden_model

from flowship.benchmarks import against
from flowship.benchmarks.baseline import Baseline, Schedule
from flowship.runtime.errors import CheckpointError, MissingExtraError, UsageError
from flowship.runtime.flow import Flow, draw_noise
from flowship.runtime.guidance import Guidance
from flowship.runtime.images import to_uint8

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


def test_it_makes_our_picture() -> None:
    baseline, guidance = Baseline(TRAINED), Guidance(2.0)
    with Flow.open(threads=1, plan="default") as flow:
        noise = draw_noise([0], flow.spec)
        ours = flow.decode(noise, label=7, guidance=2.0)
    theirs = baseline.sequential(noise, [7], guidance)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    assert (to_uint8(theirs) != to_uint8(ours)).mean() < 1e-3


def test_bench_states_the_ratio(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "usable_cores", lambda: 1)  # two torch threads spin
    words = ["-r", "1", "--warm-up", "0", "--no-cold", "--no-limits", "--threads", "1"]
    rows = flowship.ok("bench", *words, "--baseline", TRAINED, "--json").json["rows"]
    ours = next(row for row in rows if row["engine"] == "onnx")
    assert any("as fast as Model.reverse" in note for note in ours["notes"])
    reverse = next(row for row in rows if row["engine"] == against.REVERSE)
    assert reverse["samples_ms"] and reverse["max_abs_error"] == 0


def test_other_weights_are_not_compared() -> None:
    with pytest.raises(UsageError, match="only the same weights compare"):
        against.check_same_weights(GOLDEN / f"{CONDITIONAL}.pth", [None])
