"""Energy meters on counters made by hand: sysfs trees, a clock and an NVML whose joules we know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowship.benchmarks import energy
from flowship.benchmarks.energy import BatteryMeter, NvmlMeter, RaplMeter


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rapl_sums_packages_and_wraps(tmp_path: Path) -> None:
    first = write(tmp_path / "intel-rapl:0", energy_uj=9_000_000, max_energy_range_uj=10_000_000)
    second = write(tmp_path / "intel-rapl:1", energy_uj=0, max_energy_range_uj=10_000_000)
    write(tmp_path / "intel-rapl:0:0", energy_uj=77)  # a part of the first: not counted twice
    meter = RaplMeter.find(tmp_path)
    assert meter and meter.source.startswith("RAPL")
    write(first, energy_uj=1_000_000)
    write(second, energy_uj=500_000)
    assert meter.read() == pytest.approx(2.5)
    (first / "energy_uj").unlink()
    assert meter.read() is None
    assert RaplMeter.find(tmp_path / "none") is None


@pytest.mark.parametrize(
    "files",
    [
        {"power_now": 10_000_000},  # uW
        {"power_now": -10_000_000},
        {"current_now": 1_000_000, "voltage_now": 10_000_000},  # uA, uV
    ],
)
def test_a_battery_gives_power(tmp_path: Path, files: dict[str, int]) -> None:
    clock = Clock()
    battery = write(tmp_path / "BAT0", status="Discharging", **files)
    write(tmp_path / "AC", online=0)
    meter = BatteryMeter.find(tmp_path, clock)
    assert meter and meter.source == "battery BAT0: the whole machine"
    clock.now += 3
    assert meter.read() == pytest.approx(30.0)
    write(battery, status="Charging")
    assert meter.read() is None
    assert BatteryMeter.find(tmp_path, clock) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"energy_now": 50_000_000}, {"energy_now": 49_990_000}),  # 10 mWh
        ({"charge_now": 5_000_000, "voltage_now": 10_000_000}, {"charge_now": 4_999_000}),
    ],
)
def test_a_battery_without_power_gives_its_charge(
    tmp_path: Path, before: dict[str, int], after: dict[str, int]
) -> None:
    battery = write(tmp_path / "BAT1", status="Discharging", **before)
    meter = BatteryMeter.find(tmp_path)
    assert meter
    write(battery, **after)
    assert meter.read() == pytest.approx(36.0)


def test_a_battery_that_tells_nothing_is_no_meter(tmp_path: Path) -> None:
    write(tmp_path / "BAT0", status="Discharging", capacity=57)
    assert BatteryMeter.find(tmp_path) is None


def fake_nvml(**changes: Any) -> Any:
    state = SimpleNamespace(millijoules=5000, opened=None)

    def open_card(number: object) -> str:
        state.opened = number
        return "handle"

    nvml = SimpleNamespace(
        state=state,
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=open_card,
        nvmlDeviceGetHandleByUUID=open_card,
        nvmlDeviceGetName=lambda handle: b"Card",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: state.millijoules,
    )
    nvml.__dict__.update(changes)
    return nvml


@pytest.mark.parametrize(
    ("visible", "opened"), [(None, 0), ("1,0", 1), ("GPU-7f", "GPU-7f"), ("", 0)]
)
def test_nvml_counts_the_card_in_use(
    visible: str | None, opened: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = fake_nvml()
    meter = NvmlMeter.find(nvml)
    assert meter and meter.source.startswith("NVML: GPU") and meter.source.endswith(", Card")
    assert nvml.state.opened == opened
    nvml.state.millijoules += 2500
    assert meter.read() == pytest.approx(2.5)


def test_nvml_without_driver_or_counter_is_no_meter() -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("not supported")

    assert NvmlMeter.find(fake_nvml(nvmlInit=fails)) is None
    assert NvmlMeter.find(fake_nvml(nvmlDeviceGetTotalEnergyConsumption=fails)) is None


def test_the_meter_is_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NvmlMeter, "find", lambda: "nvml")
    monkeypatch.setattr(RaplMeter, "find", lambda: None)
    monkeypatch.setattr(BatteryMeter, "find", lambda: "battery")
    assert energy.find_meter("cuda") == "nvml"  # type: ignore[comparison-overlap]
    assert energy.find_meter("cpu") == "battery"  # type: ignore[comparison-overlap]
    assert "bench-gpu" in energy.why_no_meter("cuda")
    assert "RAPL" in energy.why_no_meter("cpu")
