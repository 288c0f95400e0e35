"""How much of this machine an engine takes unless it is told otherwise."""

from __future__ import annotations

import os

SMALL_BLOCK_BYTES = 32 << 20  # a block whose weights fit the caches of common CPUs


def default_threads(block_bytes: int) -> int:
    """One thread for small blocks, where a second one costs more than it brings."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if block_bytes < SMALL_BLOCK_BYTES else min(cores or 1, 8)


def resident_bytes() -> int:
    """A third of the machine's memory: packed weights of all blocks may take that much."""
    if not hasattr(os, "sysconf"):
        return 4 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
