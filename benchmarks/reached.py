"""What this machine can do at most, measured once per number of threads and run."""

from __future__ import annotations

from functools import lru_cache

from .measure import Limits
from .roofline import measure_limits

SECONDS = 1.0  # of each of the two measurements


@lru_cache
def limits_of_this_machine(threads: int) -> Limits:
    """Read bandwidth and matrix product rate with so many threads."""
    found = measure_limits(threads, SECONDS)
    return Limits(found.read_gbps, found.matmul_gflops)
