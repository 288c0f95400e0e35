"""The noise contract: every vector of tests/golden/rng_vectors.json, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flowship.runtime.normal import normals, normals_from_words
from flowship.runtime.philox import philox4x32, words

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "rng_vectors.json").read_text()
)
SEED = 0x0123456789ABCDEF


def _bits(values: npt.NDArray[np.float32]) -> list[str]:
    return [f"{bits:08x}" for bits in values.view(np.uint32)]


@pytest.mark.parametrize("vector", VECTORS["random123_kat"])
def test_known_answers_of_random123(vector: dict[str, list[str]]) -> None:
    c0, c1, c2, c3 = (np.array([int(word, 16)], np.uint64) for word in vector["counter"])
    k0, k1 = (int(word, 16) for word in vector["key"])
    assert [f"{int(w[0]):08x}" for w in philox4x32((c0, c1, c2, c3), (k0, k1))] == vector["out"]


@pytest.mark.parametrize("stream", VECTORS["streams"])
def test_streams(stream: dict[str, Any]) -> None:
    seed, start, domain = int(stream["seed"], 16), stream["start"], stream["domain"]
    count = len(stream["words"])
    found = words(seed, count, start, domain)
    assert [f"{word:08x}" for word in found] == stream["words"]
    assert _bits(normals(seed, count, start, domain)) == stream["normals_f32_bits"]
    assert normals(seed, count, start, domain).tolist() == stream["normals"]


@pytest.mark.parametrize("vector", VECTORS["sha256"], ids=lambda vector: str(vector["n"]))
def test_hashes(vector: dict[str, Any]) -> None:
    noise = normals(int(vector["seed"], 16), vector["n"])
    assert hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest() == vector["sha256"]


def test_words_that_a_contracted_multiply_add_would_change() -> None:
    cases = VECTORS["fma_sensitive_words"]
    found = _bits(normals_from_words(np.array([case["word"] for case in cases], np.uint32)))
    assert found == [case["right_f32_bits"] for case in cases]
    assert all(case["wrong_if_contracted_f32_bits"] not in found for case in cases)


def test_edge_words() -> None:
    cases = VECTORS["edge_words"]
    found = normals_from_words(np.array([case["word"] for case in cases], np.uint32))
    assert _bits(found) == [case["f32_bits"] for case in cases]


def test_antisymmetry() -> None:
    word = np.concatenate([words(1, 100_000), np.array([0, 1, 1 << 31], np.uint32)])
    mirrored = normals_from_words(np.uint32(0xFFFFFFFF) - word)
    assert _bits(mirrored) == _bits(-normals_from_words(word))


def test_monotone_and_bounded() -> None:
    z = normals_from_words(np.sort(words(2, 100_000)))
    assert (np.diff(z) >= 0).all()
    assert np.abs(normals_from_words(np.array([0, 0xFFFFFFFF], np.uint32))).max() < 6.34


def test_any_part_of_a_stream_is_the_stream() -> None:
    whole = normals(SEED, 1000)
    assert np.array_equal(normals(SEED, 500, start=500), whole[500:])
    assert np.array_equal(normals(SEED, 3, start=4), whole[4:7])
    assert normals(SEED, 0).shape == (0,)


def test_seeds_and_domains_are_independent() -> None:
    streams = [normals(0, 1000), normals(1, 1000), normals(1 << 32, 1000), normals(0, 1000, 0, 1)]
    correlation = np.corrcoef(np.stack(streams)) - np.eye(4)
    assert np.abs(correlation).max() < 0.12  # 3.8 sigma of 1 / sqrt(1000)


def test_moments() -> None:
    z = normals(3, 1_000_000).astype(np.float64)
    assert abs(z.mean()) < 4e-3
    assert abs(z.var() - 1) < 6e-3
    assert abs((z**3).mean()) < 1.6e-2
    assert abs((z**4).mean() - 3) < 4e-2  # each about 4 sigma


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1, 4), "seed -1"),
        ((1 << 64, 4), "seed 18446744073709551616 is not between"),
        ((0, 4, 2), "start 2 is not a multiple of 4"),
        ((0, 4, -4), "start -4"),
        ((0, -1), "count -1"),
        ((0, 4, 0, 1 << 32), "domain 4294967296"),
    ],
)
def test_wrong_arguments(arguments: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        normals(*arguments)
