"""Joules that the processor used, where the kernel lets a user read its counters (RAPL)."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyCounter:
    """Sums the packages' RAPL counters; ``read()`` is None where there are none to read.

    Since 2020 kernels give them to root alone (CVE-2020-8694):
    ``chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`` opens them until the next boot.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it (AMD's driver has the same names)
        self._zones = [
            zone
            for zone in sorted(root.glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and _read(zone / "energy_uj") is not None
        ]
        self._last = self._raw()
        self._joules = 0.0

    def read(self) -> float | None:
        """Joules since the counter was made. Read at least every minute: the hardware wraps."""
        if not self._zones:
            return None
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


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
