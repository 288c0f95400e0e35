"""Joules that a picture took, from the counter that knows most about the device it ran on.

A GPU's own counter (NVML), the processor packages' (RAPL), or the battery of a Linux laptop that is
discharging. macOS and Windows tell a user no more than the battery's percentage, which says nothing
about a picture: there is no energy there.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .machine import POWER_SUPPLIES

POWERCAP = Path("/sys/class/powercap")
GPU_DEVICES = ("cuda",)  # whose energy NVML counts


class EnergyMeter(Protocol):
    """A counter of joules.

    Attributes:
        source: what it counts, in words.
    """

    source: str

    def read(self) -> float | None:
        """Joules since the meter was made; None from the moment that it cannot be read."""


def find_meter(device: str | None) -> EnergyMeter | None:
    """The meter for an engine's device: a GPU's alone, else the package's, else the battery's."""
    if device in GPU_DEVICES:
        return NvmlMeter.find()
    return RaplMeter.find() or BatteryMeter.find()


class RaplMeter:
    """The processor packages' counters, other programs included.

    Since 2020 kernels give them to root alone (CVE-2020-8694):
    ``chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`` opens them until the next boot.
    """

    def __init__(self, zones: list[Path]) -> None:
        self.source = "RAPL: the whole processor package"
        self._zones = zones
        self._last = self._raw()
        self._joules = 0.0

    @classmethod
    def find(cls, root: Path = POWERCAP) -> RaplMeter | None:
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it (AMD's driver has the same names)
        zones = [
            zone
            for zone in sorted(root.glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and _read(zone / "energy_uj") is not None
        ]
        return cls(zones) if zones else None

    def read(self) -> float | None:
        """Read at least every minute: the hardware wraps."""
        raw = self._raw()
        for zone, before, now in zip(self._zones, self._last, raw, strict=True):
            if before is None or now is None:
                return None
            gone = now - before
            if gone < 0:
                gone += _read(zone / "max_energy_range_uj") or 0
            self._joules += gone / 1e6
        self._last = raw
        return self._joules

    def _raw(self) -> list[int | None]:
        return [_read(zone / "energy_uj") for zone in self._zones]


class BatteryMeter:
    """A discharging battery: the power it gives, summed over time; display and disk included.

    The power is measured about once a second, the charge in steps of tens of joules. So pictures
    of milliseconds need many samples, and the charge counts only where no power is told.
    """

    def __init__(self, battery: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self.source = f"battery {battery.name}: the whole machine"
        self._battery, self._clock = battery, clock
        self._at, self._watts, self._charge = clock(), self._power(), self._stored()
        self._joules = 0.0

    @classmethod
    def find(
        cls, root: Path = POWER_SUPPLIES, clock: Callable[[], float] = time.perf_counter
    ) -> BatteryMeter | None:
        for battery in sorted(path.parent for path in root.glob("*/status")):
            meter = cls(battery, clock)
            if meter.read() is not None:
                return meter
        return None

    def read(self) -> float | None:
        if _text(self._battery / "status") != "Discharging":
            return None
        now, watts, charge = self._clock(), self._power(), self._stored()
        if watts is not None and self._watts is not None:
            self._joules += (watts + self._watts) / 2 * (now - self._at)
        elif charge is not None and self._charge is not None:
            self._joules += self._charge - charge
        else:
            return None
        self._at, self._watts, self._charge = now, watts, charge
        return self._joules

    def _power(self) -> float | None:
        """Watts: power_now (uW), or current_now (uA) * voltage_now (uV). Some drivers sign it."""
        watts = self._scaled("power_now", 1e-6)
        if watts is None:
            watts = self._product("current_now", 1e-12)
        return None if watts is None else abs(watts)

    def _stored(self) -> float | None:
        """Joules: energy_now (uWh), or charge_now (uAh) * voltage_now (uV)."""
        energy = self._scaled("energy_now", 3600e-6)
        return energy if energy is not None else self._product("charge_now", 3600e-12)

    def _scaled(self, name: str, unit: float) -> float | None:
        value = _read(self._battery / name)
        return None if value is None else value * unit

    def _product(self, name: str, unit: float) -> float | None:
        volts = _read(self._battery / "voltage_now")
        return None if volts is None else self._scaled(name, volts * unit)


class NvmlMeter:
    """An NVIDIA card's own counter (Volta and newer), memory included, the processor not."""

    def __init__(self, nvml: Any, handle: Any, index: str) -> None:
        self._nvml, self._handle = nvml, handle
        name = nvml.nvmlDeviceGetName(handle)
        name = name.decode() if isinstance(name, bytes) else name  # before pynvml 11.5
        self.source = f"NVML: GPU {index}, {name}"
        self._first = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    @classmethod
    def find(cls, nvml: Any = None) -> NvmlMeter | None:
        """The first card of CUDA_VISIBLE_DEVICES (number or UUID), else number 0.

        NVML counts cards by their place on the bus; with different cards in one machine set
        CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA does too.
        """
        try:
            nvml = nvml or importlib.import_module("pynvml")
        except ImportError:
            return None
        index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        try:
            nvml.nvmlInit()
            if index.isdecimal():
                handle = nvml.nvmlDeviceGetHandleByIndex(int(index))
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(index)
            return cls(nvml, handle, index)
        except nvml.NVMLError:  # no driver, no such card, or one without the counter
            return None

    def read(self) -> float | None:
        try:
            now = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:
            return None
        return float(now - self._first) / 1000  # millijoules


def why_no_meter(device: str | None) -> str:
    """What would bring a meter, for the reader of a row without joules."""
    if device in GPU_DEVICES:
        return "no energy: NVML has no counter of this GPU here (pip install 'flowship[bench-gpu]')"
    return (
        "no energy: the processor's counters (RAPL) cannot be read and no Linux battery runs down"
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return None


def _read(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None
