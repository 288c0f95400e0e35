"""What this machine is, and which version of the program runs: the identity part of a row."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..runtime.machine_limits import usable_cores, usable_memory

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
POWER_SUPPLIES = Path("/sys/class/power_supply")


@dataclass(frozen=True)
class Machine:
    """A computer in words and numbers.

    Attributes:
        name: of the processor.
        cores, memory_gb: that this process may use, in a container fewer than the machine's.
        power: ``mains``, ``battery 57 %``, with the frequency governor; None where unknown.
    """

    name: str
    cores: int
    memory_gb: float | None
    os: str
    power: str | None


def this_machine() -> Machine:
    """What the operating system says of itself; nothing is installed or started for it."""
    return Machine(_processor(), usable_cores(), _memory_gb(), platform.platform(), power_state())


def _processor() -> str:
    if CPUINFO.is_file():
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        for key in ("model name", "Hardware", "Model"):
            for name, value in found.items():
                if name.strip() == key:
                    return value.strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine() or "unknown"


def _memory_gb() -> float | None:
    memory = usable_memory()
    return _psutil_memory_gb() if memory is None else round(memory / 1e9, 1)


def _psutil_memory_gb() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(float(psutil.virtual_memory().total) / 1e9, 1)


def power_state(supplies: Path = POWER_SUPPLIES) -> str | None:
    """Mains or battery with its charge, and the governor; Linux only."""
    words = []
    batteries = _read_all(supplies, "capacity")
    mains = _read_all(supplies, "online")
    if batteries and not any(value == "1" for value in mains):
        words.append(f"battery {batteries[0]} %")
    elif mains or batteries:
        words.append("mains")
    governor = _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    if governor:
        words.append(f"governor {governor}")
    return ", ".join(words) or None


def _read_all(folder: Path, name: str) -> list[str]:
    texts = [_read(path) for path in sorted(folder.glob(f"*/{name}"))]
    return [text for text in texts if text]


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None


def commit() -> str | None:
    """The checkout's commit, ``+`` where files differ from it; None for an installed package."""
    here = Path(__file__).resolve()
    git = ("git", "-C", str(here.parent))
    if _output(*git, "ls-files", "--", here.name) != here.name:
        return None  # the checkout around it, if any, is not ours
    name = _output(*git, "rev-parse", "--short=10", "HEAD")
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{name}+" if name and changed else name or None


def _output(*command: str) -> str:
    """What a command prints; empty where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def now_utc() -> str:
    """Such as ``2025-03-01T12:00:00Z``."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
