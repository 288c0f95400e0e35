"""Predictions: the roofline's arithmetic, memory, the command, and this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from flowship.benchmarks import predict_command
from flowship.benchmarks.devices import Device, devices, find_device, tier_devices
from flowship.benchmarks.predict import ASSUMED, PRECISIONS, Speed, device_speed, predict
from flowship.benchmarks.roofline import CallCost, model_costs
from flowship.benchmarks.validate import Validation, typical_error
from flowship.benchmarks.validated import Validated, ValidatedRun, validated
from flowship.runtime.bundle import Bundle
from flowship.runtime.errors import UsageError
from flowship.runtime.plan import PLAN, Convergence, PlanFile, Profile


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with Bundle.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def profile(bundle: Bundle) -> Profile:
    found = PlanFile.loads(bundle.path(PLAN).read_text("utf-8")).profile
    assert found
    return found


def test_a_call_takes_the_slower_of_reading_and_computing_and_its_launch() -> None:
    speed = Speed("x", gbps=100, tflops=1, read=0.5, matmul=0.5, launch_seconds=1e-3)
    assert speed.seconds(CallCost(5e7, 0, 0, 1)) == pytest.approx(2e-3)
    assert speed.seconds(CallCost(1, 0, 0, 1e9)) == pytest.approx(3e-3)
    assert speed.seconds(CallCost(5e7, 0, 0, 1e9)) == pytest.approx(3e-3)
    assert replace(speed, overlap=False).seconds(CallCost(5e7, 0, 0, 1e9)) == pytest.approx(4e-3)


def test_sequential_time_is_calls_times_the_call(bundle: Bundle) -> None:
    speed = device_speed(find_device("rtx-4060"))
    found = predict(bundle.manifest, None, speed, "fp16", False)
    call = speed.seconds(model_costs(bundle.manifest, "fp16")["block0"])
    assert found.sequential_seconds == pytest.approx(4 * 48 * call)
    assert found.planned_seconds == found.sequential_seconds
    assert set(found.windows.values()) == {1}


def test_published_floor_of_weight_traffic() -> None:
    """472 M parameters in fp16 at 272 GB/s, 1024 times: 3.6 s (a public figure)."""
    speed = Speed("x", 272, 1e6, 1, 1, 0)
    assert 1024 * speed.seconds(CallCost(2 * 472e6, 0, 0, 0)) == pytest.approx(3.55, abs=0.05)


def test_windows_pay_where_launching_dominates(bundle: Bundle, profile: Profile) -> None:
    launching = Speed("gpu", 1000, 100, 1, 1, 1e-3)
    computing = Speed("slow", 1000, 1e-3, 1, 1, 0)
    fast = predict(bundle.manifest, profile, launching, "fp16", False)
    assert fast.bound == "launch" and fast.planned_seconds < 0.4 * fast.sequential_seconds
    slow = predict(bundle.manifest, profile, computing, "fp16", False)
    assert slow.bound == "compute" and set(slow.windows.values()) == {1}


def test_guidance_has_its_own_profile(bundle: Bundle) -> None:
    entries = tuple(
        Convergence(block.name, 8, guidance, committed, committed)
        for block in bundle.spec.ar_blocks
        for guidance, committed in ((0.0, 8.0), (2.0, 1.0))
    )
    profile = Profile(1, 1e-5, "test", entries)
    speed = Speed("gpu", 1000, 100, 1, 1, 1e-3)
    plain, guided = (predict(bundle.manifest, profile, speed, "fp16", g) for g in (False, True))
    assert set(plain.windows.values()) == {8} and set(guided.windows.values()) == {1}


def test_guidance_needs_a_second_cache(bundle: Bundle) -> None:
    speed = Speed("x", 100, 1, 1, 1, 0)
    plain, guided = (predict(bundle.manifest, None, speed, "fp16", g) for g in (False, True))
    cache = 2 * 4 * 49 * 128 * 2  # keys and values, layers, patches, channels, bytes
    assert guided.memory_bytes - plain.memory_bytes >= cache


@pytest.mark.parametrize(
    ("memory", "fits"),
    [(1e9, "yes"), (4e6, "one block at a time"), (1e5, "no"), (None, "unknown")],
)
def test_memory(bundle: Bundle, memory: float | None, fits: str) -> None:
    speed = Speed("x", 100, 1, 1, 1, 0, memory)
    assert predict(bundle.manifest, None, speed, "fp16", False).fits == fits


def test_what_is_assumed_is_said() -> None:
    words = " ".join(device_speed(find_device("pixel-9a")).assumptions)
    assert f"{ASSUMED['phone'].tflops:g} TFLOP/s in fp16, which no source read states" in words
    given = device_speed(find_device("pixel-9a"), tflops=2.5)
    assert given.tflops == 2.5 and "no source" not in " ".join(given.assumptions)


def test_no_prediction_without_a_bandwidth() -> None:
    device = Device("x", "X", "phone")
    with pytest.raises(UsageError, match="bandwidth of x: give it with --gbps"):
        device_speed(device)
    assert device_speed(device, gbps=30).gbps == 30
    with pytest.raises(UsageError, match="bandwidth -1 is not above 0"):
        device_speed(device, gbps=-1)


def test_typical_error_counts_both_directions() -> None:
    calls = [Validation("m", "b", 1, False, p, 1.0) for p in (2.0, 0.5)]
    assert typical_error(calls) == pytest.approx(1.0)


def test_the_range_is_that_of_measured_calls() -> None:
    runs = (ValidatedRun("a", False, (1, 2), (1.25, 0.8)), ValidatedRun("b", True, (1,), (1.1,)))
    found = Validated(1, "a CPU", "2026-01-01", "x 1", runs)
    assert found.around(1.0) == pytest.approx((0.8, 1.25))
    assert "a factor of 1.25 in both directions" in found.words
    assert "the worst of 3 measured calls of a and b" in found.words
    assert "no GPU or phone was measured" in found.words
    low = Validated(1, "a CPU", "", "", (ValidatedRun("a", False, (1,), (0.5,)),))
    assert low.around(1.0) == pytest.approx((0.5, 2.0))


def test_every_prediction_has_its_range(bundle: Bundle, profile: Profile) -> None:
    speed = device_speed(find_device("rtx-4060"))
    found = predict(bundle.manifest, profile, speed, "fp16", False)
    low, high = found.planned_range
    assert low <= found.planned_seconds <= high and low < high
    assert (low, high) == validated().around(found.planned_seconds)


def test_tensor_rates_count_and_shader_rates_are_said() -> None:
    assert device_speed(find_device("rtx-4060")).tflops == 60.46
    shader = device_speed(find_device("rtx-5060"))
    assert shader.tflops == 19.18 and "the shaders' fp16 rate" in " ".join(shader.assumptions)
    assert "launch overhead of 0.2 ms for each call, measured nowhere" in shader.assumptions


def test_the_default_is_a_short_table_of_the_tier(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run() == 0
    out = capsys.readouterr().out.splitlines()
    header, *rows = out[1:]
    rows = rows[: [line.startswith("tensor, shader:") for line in rows].index(True)]
    assert 15 <= len(rows) <= 25 and "range" in header.split()
    names = [row.split()[0] for row in rows]
    assert names == [device.id for device in tier_devices()]
    unknown = {row.split()[0] for row in rows if row.split()[1] == "unknown"}
    assert unknown == {d.id for d in tier_devices() if d.bandwidth_gbps is None}
    assert not any("ms" in row or " s " in row for row in rows if row.split()[0] in unknown)
    assert any(line.startswith("range: a factor of") for line in out)
    assert "--device all has the others" in out[-1]


def test_all_devices_and_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--device", "all", "--precision", "int8", "--guidance", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    known = {device["name"] for device in document["devices"]}
    assert known | set(document["unknown_bandwidth"]) == {device.id for device in devices()}
    assert "galaxy-a36" in document["unknown_bandwidth"]
    assert {p["device"] for p in document["predictions"]} == known
    assert document["validation"]["runs"]
    assert _run("--device", "rtx-4060,galaxy-a36", "--precision", "int8") == 0
    out = capsys.readouterr().out
    assert "unknown: no source that was read states the memory bandwidth" in out
    with pytest.raises(UsageError, match="bandwidth of galaxy-a36: give it with --gbps"):
        _run("--device", "galaxy-a36")
    assert _run("--device", "galaxy-a36", "--gbps", "25.6", "--tflops", "0.9") == 0
    assert "0.9 TFLOP/s in fp16, as given" in capsys.readouterr().out


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    predict_command.add_arguments(parser)
    return predict_command.run(parser.parse_args(words))


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--device", "rtx-4060,pixel-9a") == 0
    out = capsys.readouterr().out
    assert sum(line.startswith("pixel-9a") for line in out.splitlines()) == 2 * len(PRECISIONS)
    assert "assumed for pixel-9a" in out


def test_a_published_size_needs_no_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    """463 M parameters, 1024 patches in 8 blocks: 3.5 s of weights at 272 GB/s, and all else."""
    words = ["--model", "tarflow-afhq256", "--device", "rtx-4060,iphone-16e", "--json"]
    assert _run(*words) == 0
    document = json.loads(capsys.readouterr().out)
    found = {(p["device"], p["precision"], p["guided"]): p for p in document["predictions"]}
    plain = found["rtx-4060", "fp16", False]
    assert not document["profile"]
    assert 3.5 / 0.85 < plain["sequential_seconds"] < 1.6 * 3.5 / 0.85
    assert 0.93e9 < plain["memory_bytes"] < 1.0e9 and plain["fits"] == "yes"
    times = [found["iphone-16e", p, False]["sequential_seconds"] for p in PRECISIONS]
    assert times == sorted(times, reverse=True)


def test_command_misuse() -> None:
    with pytest.raises(UsageError, match="leave out the other"):
        _run("a.flowship", "--model", "tarflow-afhq256")
    with pytest.raises(UsageError, match="unknown model 'x': choose from tarflow-"):
        _run("--model", "x")
    with pytest.raises(UsageError, match="leave out --model"):
        _run("--this-device", "--model", "tarflow-afhq256")
    with pytest.raises(UsageError, match="describe one device"):
        _run("--gbps", "10")
    with pytest.raises(UsageError, match="describe one device"):
        _run("--device", "all", "--tflops", "10")
    with pytest.raises(UsageError, match="--published goes with"):
        _run("--published", "tarflow-tiny")
    with pytest.raises(UsageError, match="leave out --device"):
        _run("--this-device", "--device", "rtx-4060")
    with pytest.raises(UsageError, match="unknown precision 'x'"):
        _run("--device", "rtx-4060", "--precision", "x")


def test_this_machine_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    """That the method runs; how good it is, no busy test machine can say."""
    assert _run("--this-device") == 0
    out = capsys.readouterr().out
    assert out.count("typically off by") == 2 and "GB/s for its weights" in out
