"""What a container may use: cores and memory of its group of processes, not of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowship.runtime import machine_limits
from flowship.runtime.commands import plan
from flowship.runtime.engines import resources
from flowship.runtime.machine_limits import usable_cores, usable_memory

HUGE = "9223372036854771712"  # what version 1 says where there is no limit
CPU, MEMORY = "sys/fs/cgroup/cpu", "sys/fs/cgroup/memory"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 cores and 64 GB."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * 10**9 // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)


def _system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


CASES = {
    "no groups at all": ("", {}, 12, 64),
    "version 2, a container": (
        "0::/",
        {"sys/fs/cgroup/cpu.max": "200000 100000", "sys/fs/cgroup/memory.max": "4000000000"},
        2,
        4,
    ),
    "a part of a core counts as one": ("0::/", {"sys/fs/cgroup/cpu.max": "250000 100000"}, 3, 64),
    "less than one core": ("0::/", {"sys/fs/cgroup/cpu.max": "5000 100000"}, 1, 64),
    "no limits": (
        "0::/a",
        {"sys/fs/cgroup/a/cpu.max": "max 100000", "sys/fs/cgroup/a/memory.max": "max"},
        12,
        64,
    ),
    "more than there is": (
        "0::/a",
        {"sys/fs/cgroup/a/cpu.max": "9900000 100000", "sys/fs/cgroup/a/memory.max": HUGE},
        12,
        64,
    ),
    "the strictest of the own group and those above it": (
        "0::/a.slice/b/c",
        {
            "sys/fs/cgroup/a.slice/cpu.max": "400000 100000",
            "sys/fs/cgroup/a.slice/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a.slice/b/c/cpu.max": "300000 50000",
            "sys/fs/cgroup/a.slice/memory.max": "8000000000",
            "sys/fs/cgroup/a.slice/b/c/memory.max": "9000000000",
            "sys/fs/cgroup/elsewhere/cpu.max": "100000 100000",
        },
        4,
        8,
    ),
    "a group as the host calls it, which the container does not see": (
        "0::/docker/abc",
        {"sys/fs/cgroup/cpu.max": "200000 100000"},
        2,
        64,
    ),
    "a group outside of what is mounted": (
        "0::/../other",
        {"sys/fs/cgroup/cpu.max": "200000 100000"},
        2,
        64,
    ),
    "version 1": (
        "4:memory:/box\n2:cpu,cpuacct:/box\n1:cpuset:/",
        {
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            f"{MEMORY}/box/memory.limit_in_bytes": "2000000000",
            f"{MEMORY}/memory.limit_in_bytes": HUGE,
        },
        2,
        2,
    ),
    "version 1 in a container": (
        "4:memory:/docker/abc\n2:cpuacct,cpu:/docker/abc",
        {
            f"{CPU}/cpu.cfs_quota_us": "100000",
            f"{CPU}/cpu.cfs_period_us": "100000",
            f"{MEMORY}/memory.limit_in_bytes": "3000000000",
        },
        1,
        3,
    ),
    "both versions, as systemd had them": (
        "3:memory:/x\n2:cpu:/x\n0::/y",
        {
            "sys/fs/cgroup/unified/y/cpu.max": "300000 100000",
            f"{CPU}/x/cpu.cfs_quota_us": "500000",
            f"{CPU}/x/cpu.cfs_period_us": "100000",
            f"{MEMORY}/x/memory.limit_in_bytes": "5000000000",
        },
        3,
        5,
    ),
    "nonsense": (
        "0::/\nnonsense\n",
        {"sys/fs/cgroup/cpu.max": "a lot", "sys/fs/cgroup/memory.max": ""},
        12,
        64,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_limits(tmp_path: Path, name: str) -> None:
    groups, files, cores, gigabytes = CASES[name]
    root = _system(tmp_path, groups, files)
    assert usable_cores(root) == cores
    memory = usable_memory(root)
    assert memory is not None and round(memory / 1e9, 3) == gigabytes


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path) == 12
    monkeypatch.delattr(os, "sysconf")
    assert usable_memory(tmp_path) is None
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_whoever_takes_cores_or_memory_asks_for_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"sys/fs/cgroup/cpu.max": "200000 100000", "sys/fs/cgroup/memory.max": "3000000000"}
    root = _system(tmp_path, "0::/", files)
    cores, memory = machine_limits.usable_cores, machine_limits.usable_memory
    monkeypatch.setattr(resources, "usable_cores", lambda: cores(root))
    monkeypatch.setattr(resources, "usable_memory", lambda: memory(root))
    monkeypatch.setattr(plan, "usable_cores", lambda: cores(root))
    assert resources.default_threads(1 << 30) == 2
    assert resources.default_threads(1 << 20) == 1
    assert resources.resident_bytes() == 10**9
    assert plan._thread_counts(None) == (1, 2)


def test_nobody_else_counts_cores_or_memory() -> None:
    """Affinity and the machine's own numbers are asked for in one place."""
    root = Path(__file__).parents[1]
    files = [
        path for top in ("runtime", "export", "benchmarks") for path in (root / top).rglob("*.py")
    ]
    words = ("cpu_count(", "sched_getaffinity(", "SC_PHYS_PAGES")
    found = {path.name for path in files if any(word in path.read_text("utf-8") for word in words)}
    assert found == {"machine_limits.py"}
