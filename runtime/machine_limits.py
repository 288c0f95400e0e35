"""Cores and memory that this process may use, which in a container are fewer than the machine's.

Linux limits groups of processes (cgroups). A process is below every group from its own up to the
top; of those above it, a container may see none. Version 1 has a tree for each controller, version
2 one tree for all, and a system may have both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """The fewest of the machine's cores, those this process may run on, and its quota rounded up.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    limits = [os.cpu_count() or 1, *_quotas(root)]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    return max(1, min(limits))


def usable_memory(root: Path = ROOT) -> int | None:
    """Bytes: the machine's memory or a smaller limit of this process; None where unknown."""
    limits = [*_machine_memory(), *_memory_limits(root)]
    return min(limits, default=None)


def _machine_memory() -> Iterator[int]:
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        pages = os.sysconf("SC_PHYS_PAGES")
        if pages > 0:
            yield pages * os.sysconf("SC_PAGE_SIZE")


def _quotas(root: Path) -> Iterator[int]:
    for group in _groups(root, "cpu"):
        words = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        numbers = [int(word) for word in words if word.isdecimal()]  # no limit: "max", "-1"
        if len(numbers) == 2 and all(numbers):
            yield -(-numbers[0] // numbers[1])


def _memory_limits(root: Path) -> Iterator[int]:
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for word in _words(group / name)[:1]:
                if word.isdecimal() and int(word):  # no limit: max, or a number above all memory
                    yield int(word)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The groups of this process for a controller, each from its own up to the top."""
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup") or ["0::/", f"1:{controller}:/"]:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        elif number == "0" and not controllers:  # version 2
            tops = [mounts, mounts / "unified"]
        else:
            continue
        # A group outside of what is mounted here is written with "..": only the top can be seen.
        path = PurePosixPath("/" if ".." in name.split("/") else name or "/")
        inner = [str(part).lstrip("/") for part in (path, *path.parents)]
        yield from dict.fromkeys(top / part for top in tops for part in inner)


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
