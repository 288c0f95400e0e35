"""How much of this machine an engine takes unless it is told otherwise."""

from __future__ import annotations

from ..machine_limits import usable_cores, usable_memory

SMALL_BLOCK_BYTES = 32 << 20  # a block whose weights fit the caches of common CPUs
UNKNOWN_MEMORY_BYTES = 12 << 30  # where the system does not say what it has


def default_threads(block_bytes: int) -> int:
    """One thread for small blocks, where a second one costs more than it brings."""
    return 1 if block_bytes < SMALL_BLOCK_BYTES else min(usable_cores(), 8)


def resident_bytes() -> int:
    """A third of the usable memory: packed weights of all blocks may take that much."""
    return (usable_memory() or UNKNOWN_MEMORY_BYTES) // 3
