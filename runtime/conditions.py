"""What disturbs a measurement: other programs, stolen time, throttling. Samples get flags for it.

Readings are taken between samples, a WINDOW apart, and everything measured in a window shares its
flags: the kernel counts in ticks of 10 ms, which say nothing about a sample of 20 ms.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
WINDOW = 0.25  # seconds
BUSY_CORES = 0.25  # load of other programs that shows in timings; a quiet desktop has 0.05
STEAL = 0.02  # share of the machine's time that the hypervisor gave to others
THROTTLED = 1.15  # calibration against a good one of this run; 75 % of the clock is 1.33
# A good calibration is one that a fifth of all reach: the very best may be a moment of turbo, 10 to
# 15 % faster than all others on a virtual machine, and would call everything else throttled.
GOOD_SHARE = 0.2
_PIECE = bytes(1 << 17)  # 131 kB: one core, inside its cache, no memory traffic


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since boot, summed over the cores: busy (own work included), idle, stolen."""

    busy: float
    idle: float
    steal: float


def parse_proc_stat(text: str, ticks_per_second: int) -> CpuTimes:
    """The first line of /proc/stat: user nice system idle iowait irq softirq steal guest nice."""
    ticks = [int(word) for word in text.splitlines()[0].split()[1:9]]
    ticks += [0] * (8 - len(ticks))
    user, nice, system, idle, iowait, irq, softirq, steal = ticks
    # guest time is inside user time already
    parts = (user + nice + system + irq + softirq, idle + iowait, steal)
    return CpuTimes(*(part / ticks_per_second for part in parts))


@dataclass(frozen=True)
class Reading:
    """The machine at one moment.

    Attributes:
        wall, own: seconds on the clock and of CPU used by this process.
        cpu: None where the system does not tell.
        calibration: seconds of a fixed hash on one core.
    """

    wall: float
    own: float
    cpu: CpuTimes | None
    calibration: float


@dataclass(frozen=True)
class Disturbance:
    """What happened between two readings.

    Attributes:
        other_cores: load of other programs in cores; None where it is unknown.
        steal: stolen share of the machine's time; None where it is unknown.
        slowdown: of the calibration against a good one of the run.
        pulse: seconds of the calibration at the end.
    """

    other_cores: float | None
    steal: float | None
    slowdown: float
    pulse: float

    @property
    def flag(self) -> str:
        """Such as ``busy+throttled``; empty where all is well."""
        words = []
        if (self.other_cores or 0) > BUSY_CORES:
            words.append("busy")
        if (self.steal or 0) > STEAL:
            words.append("steal")
        if self.slowdown > THROTTLED:
            words.append("throttled")
        return "+".join(words)


def disturbance(before: Reading, after: Reading, good_calibration: float) -> Disturbance:
    """Compare two readings of one process."""
    slowdown = after.calibration / good_calibration if good_calibration > 0 else 1.0
    seconds = after.wall - before.wall
    if before.cpu is None or after.cpu is None or seconds <= 0:
        return Disturbance(None, None, slowdown, after.calibration)
    busy = after.cpu.busy - before.cpu.busy
    idle = after.cpu.idle - before.cpu.idle
    steal = after.cpu.steal - before.cpu.steal
    own = after.own - before.own
    everything = busy + idle + steal
    share = steal / everything if everything > 0 else 0.0
    others = max(0.0, busy - own) / seconds
    return Disturbance(others, share, slowdown, after.calibration)


def calibrate() -> float:
    """Seconds of a fixed hash, the best of three: slower means a lower clock or a shared core."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        hashlib.sha256(_PIECE).digest()
        best = min(best, time.perf_counter() - start)
    return best


def read_now() -> Reading:
    """The machine now; takes about a millisecond."""
    try:
        cpu: CpuTimes | None = parse_proc_stat(STAT.read_text("ascii"), os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        cpu = _psutil_times()
    return Reading(time.perf_counter(), time.process_time(), cpu, calibrate())


def _psutil_times() -> CpuTimes | None:
    """macOS and Windows, where the extra ``bench`` is installed."""
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    return CpuTimes(times.user + times.system, times.idle, 0.0)


class Watch:
    """Tells for each sample what disturbed it.

    Args:
        read: gives a reading; replaced in tests by recorded ones.
    """

    def __init__(self, read: Callable[[], Reading] = read_now) -> None:
        self._read = read
        self._readings = [read()]
        self._windows: list[int] = []  # of each sample

    def sampled(self) -> int:
        """A sample has ended; returns its number. Closes the window if it is long enough."""
        self._windows.append(len(self._readings))
        if time.perf_counter() - self._readings[-1].wall >= WINDOW:
            self.close_window()
        return len(self._windows) - 1

    def close_window(self) -> None:
        """Take a reading; samples from now on belong to the next window."""
        self._readings.append(self._read())

    def disturbances(self) -> list[Disturbance]:
        """One for each sample, in order."""
        if self._windows and self._windows[-1] == len(self._readings):
            self.close_window()
        pairs = zip(self._readings, self._readings[1:], strict=False)
        found = [disturbance(before, after, self._good_calibration) for before, after in pairs]
        return [found[window - 1] for window in self._windows]

    @property
    def calibration_ms(self) -> float:
        """A good calibration of the run."""
        return 1000 * self._good_calibration

    @property
    def _good_calibration(self) -> float:
        ordered = sorted(reading.calibration for reading in self._readings)
        return ordered[int(GOOD_SHARE * len(ordered))]


def describe(cores: int) -> str:
    """Load of the machine when the run begins, in words."""
    if not hasattr(os, "getloadavg"):
        return f"{cores} cores"
    return f"load average {os.getloadavg()[0]:.1f} on {cores} cores"
