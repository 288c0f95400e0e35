"""Philox4x32-10: random 32-bit words from (seed, index, domain), the same in every language.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
word(seed, n, domain): counter (lo32(n div 4), hi32(n div 4), domain, 0), key (lo32(seed),
hi32(seed)); the word is output n mod 4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_U64 = npt.NDArray[np.uint64]
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: tuple[_U64, _U64, _U64, _U64], key: tuple[int, int]) -> tuple[_U64, ...]:
    """Four arrays of 32-bit counters to four arrays of 32-bit words (both held in uint64)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0 = (k0 + _KEY_INCREMENTS[0]) & 0xFFFFFFFF
        k1 = (k1 + _KEY_INCREMENTS[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(seed: int, count: int, start: int = 0, domain: int = 0) -> npt.NDArray[np.uint32]:
    """``count`` words of the stream of ``seed`` from index ``start`` on.

    Args:
        seed: 0 to 2^64 - 1.
        count: number of words.
        start: first index; a multiple of 4.
        domain: 0 to 2^32 - 1; separates independent uses of one seed.

    Raises:
        ValueError: one of them is out of its range.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is not between 0 and 2^64 - 1")
    if not 0 <= domain < 1 << 32:
        raise ValueError(f"domain {domain} is not between 0 and 2^32 - 1")
    if start % 4 or start < 0 or count < 0:
        raise ValueError(f"start {start} is not a multiple of 4, or count {count} is negative")
    block = np.arange(start // 4, (start + count + 3) // 4, dtype=np.uint64)
    zeros = np.zeros_like(block)
    counter = (block & _LOW, block >> _32, zeros + np.uint64(domain), zeros)
    output = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(output, -1).reshape(-1)[:count].astype(np.uint32)
