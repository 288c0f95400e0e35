"""Likelihood changes, sensitivities, allocation, and the search for the smallest mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import CONDITIONAL, GOLDEN, UNCONDITIONAL, VOLUME_PRESERVING
from hypothesis import given, settings
from hypothesis import strategies as st

from flowship.export.checkpoint import Checkpoint
from flowship.export.options import SearchLimit
from flowship.export.quantize.allocation import Allocation, Choice, Frontier
from flowship.export.quantize.block import quantize_block
from flowship.export.quantize.calibration import collect_inputs
from flowship.export.quantize.data import PictureSet, read_pictures
from flowship.export.quantize.formats import FORMATS, find_formats
from flowship.export.quantize.frontier_plot import HEADER, frontier_rows, frontier_svg
from flowship.export.quantize.likelihood import bits_per_dim, paired_change, t_quantile
from flowship.export.quantize.search import search_formats
from flowship.export.quantize.sensitivity import (
    Sensitivity,
    costliest,
    measure_sensitivities,
)
from flowship.export.reference import reference_encode
from flowship.runtime.errors import BundleError, UsageError
from flowship.runtime.likelihood import likelihood

Model = tuple[Checkpoint, PictureSet]


@pytest.fixture(scope="module", params=[CONDITIONAL, VOLUME_PRESERVING])
def any_model(request: pytest.FixtureRequest) -> Model:
    checkpoint = Checkpoint.open(GOLDEN / f"{request.param}.pth")
    return checkpoint, read_pictures(checkpoint, None, own=8)


@pytest.fixture(scope="module")
def model() -> Model:
    checkpoint = Checkpoint.open(GOLDEN / f"{UNCONDITIONAL}.pth")
    return checkpoint, read_pictures(checkpoint, None, own=8)


# ---- likelihood ---------------------------------------------------------------------------------


def test_bits_per_dim_are_the_references(any_model: Model) -> None:
    checkpoint, pictures = any_model
    found = bits_per_dim(checkpoint, pictures, lambda stage: checkpoint.block(stage.block))
    z, logdet = reference_encode(checkpoint, pictures.patches, pictures.labels)
    wanted = likelihood(z, logdet, checkpoint.var(), "").bits_per_dim
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        reference = random.normal(6, 1, 8)
        change = paired_change(reference + random.normal(0.01, 0.005, 8), reference)
        covered += change.low <= 0.01 <= change.high
    assert 0.93 < covered / 2000 < 0.97


def test_quantiles_of_student_t() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 10: 2.228, 127: 1.979, 255: 1.969}
    for degrees, wanted in table.items():
        assert t_quantile(degrees) == pytest.approx(wanted, rel=0.003)
    with pytest.raises(ValueError, match="at least 2 pictures"):
        t_quantile(0)


def test_the_halves_are_disjoint_and_complete(model: Model) -> None:
    _, pictures = model
    steering, judging = pictures.halves()
    together = {patches.tobytes() for half in (steering, judging) for patches in half.patches}
    assert len(steering) + len(judging) == len(pictures) == len(together)
    assert together == {patches.tobytes() for patches in pictures.patches}
    assert steering.sha256 != judging.sha256
    with pytest.raises(UsageError, match=r"3 pictures .* at least 4"):
        pictures.first(3).halves()


def test_own_pictures_say_so_and_are_the_same_again(model: Model) -> None:
    checkpoint, pictures = model
    assert "pictures of the model itself" in pictures.words
    assert read_pictures(checkpoint, None, own=8).sha256 == pictures.sha256


# ---- allocation ---------------------------------------------------------------------------------

_choice = st.builds(Choice, st.none(), st.integers(1, 400), st.floats(0, 1, width=16))
_options = st.lists(st.lists(_choice, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(_options, st.floats(0, 3, width=16), st.integers(0, 2000))
def test_allocation_is_as_good_as_trying_all(
    options: list[list[Choice]], max_increase: float, max_bytes: int
) -> None:
    every = [Allocation(choices) for choices in product(*options)]
    frontier = Frontier(options)
    within = [a for a in every if a.increase <= max_increase]
    if within:
        found = frontier.smallest(max_increase)
        assert found.increase <= max_increase
        assert found.nbytes == min(a.nbytes for a in within)
    else:
        with pytest.raises(UsageError, match="is the least"):
            frontier.smallest(max_increase)
    small = [a for a in every if a.nbytes <= max_bytes]
    if small:
        found = frontier.best(max_bytes)
        assert found.nbytes <= max_bytes
        assert found.increase == min(a.increase for a in small)
    else:
        with pytest.raises(UsageError, match="is the least"):
            frontier.best(max_bytes)


@settings(max_examples=60, deadline=None)
@given(_options)
def test_the_hull_is_monotone_and_convex(options: list[list[Choice]]) -> None:
    hull = Frontier(options).hull()
    sizes = [a.nbytes for a in hull]
    slopes = [(b.increase - a.increase) / (b.nbytes - a.nbytes) for a, b in pairwise(hull)]
    assert sizes == sorted(set(sizes))
    assert all(slope < 0 for slope in slopes) and slopes == sorted(slopes)
    least = min(a.increase for a in map(Allocation, product(*options)))
    assert hull[-1].increase == least


def test_many_large_matrices_are_allocated_within_the_resolution() -> None:
    random = np.random.default_rng(0)
    options = [
        [Choice(str(i), int(random.integers(10**6, 10**8)), float(random.random())) for i in "abc"]
        for _ in range(100)
    ]
    frontier = Frontier(options)
    limit = 3_000_000_000
    assert frontier.best(limit).nbytes <= limit
    assert Frontier(options).best(limit) == frontier.best(limit)


# ---- sensitivities ------------------------------------------------------------------------------

QUICK = find_formats(["int4_g32"])


def _measure(model: Model, store: Path, **options: object) -> tuple[list[Sensitivity], list[str]]:
    told: list[str] = []
    found = measure_sensitivities(
        *model, QUICK, "gptq", store=store, progress=lambda _, words: told.append(words)
    )
    return found, told


def test_sensitivities_are_changes_with_one_matrix_quantized(any_model: Model) -> None:
    checkpoint, pictures = any_model
    pictures = pictures.first(4)
    found = measure_sensitivities(checkpoint, pictures, QUICK, "rtn")
    names = checkpoint.config.layers_per_block * 4
    assert len(found) == checkpoint.config.num_blocks * names
    one = found[names + 1]

    def source(stage: object) -> object:
        weights = checkpoint.block(stage.block)  # type: ignore[attr-defined]
        own = {one.matrix: QUICK[0]} if stage.block == one.block else {}  # type: ignore[attr-defined]
        return quantize_block(weights, own, "rtn")

    reference = bits_per_dim(checkpoint, pictures, lambda stage: checkpoint.block(stage.block))
    bits = bits_per_dim(checkpoint, pictures, source)  # type: ignore[arg-type]
    changes = bits - reference
    assert one.change == pytest.approx(float(changes.mean()), abs=1e-6)
    nats = changes * np.log(2) * pictures.patches[0].size
    assert one.increase * np.log(2) * pictures.patches[0].size == pytest.approx(
        nats.var() / 2, rel=1e-3
    )


def test_a_killed_measurement_goes_on(model: Model, tmp_path: Path) -> None:
    store = tmp_path / "sensitivities.jsonl"
    whole, told = _measure(model, store)
    assert len(told) == len(whole)
    lines = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    again, told = _measure(model, store)
    assert [s.place for s in again] == [s.place for s in whole]
    np.testing.assert_allclose([s.change for s in again], [s.change for s in whole], atol=1e-6)
    assert len(told) == len(whole) - 5
    assert len(store.read_bytes().splitlines()) == len(whole)
    assert _measure(model, store) == (again, [])


def test_results_of_other_pictures_are_left_alone(model: Model, tmp_path: Path) -> None:
    store = tmp_path / "sensitivities.jsonl"
    first, _ = _measure(model, store)
    checkpoint, pictures = model
    _, told = _measure((checkpoint, pictures.first(2)), store)
    assert len(told) == len(first)
    assert _measure(model, store) == (first, [])


def test_a_damaged_store_is_refused(model: Model, tmp_path: Path) -> None:
    store = tmp_path / "sensitivities.jsonl"
    store.write_text('{"key": 1}\n')
    with pytest.raises(BundleError, match=r"sensitivities.jsonl, line 1\.key: expected a string"):
        _measure(model, store)


def test_the_costliest_matrix_is_named() -> None:
    table = [
        Sensitivity(0, "a", "int8", 0.0, 0.1),
        Sensitivity(0, "a", "int4_g32", 0.0, 0.9),
        Sensitivity(1, "b", "int4_g32", 0.0, 0.3),
    ]
    assert costliest(table, {0: {"a": "int8"}, 1: {"b": "int4_g32"}}) == table[2]
    assert costliest(table, {}) is None


# ---- search -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(model: Model) -> list[Sensitivity]:
    checkpoint, pictures = model
    return measure_sensitivities(
        checkpoint, pictures, find_formats(["int8", "int4_g32", "int4_g128"]), "gptq"
    )


def _real_change(model: Model, formats: Callable[[int], dict[str, str]]) -> float:
    checkpoint, pictures = model
    inputs = collect_inputs(checkpoint, pictures)
    trained = bits_per_dim(checkpoint, pictures, lambda stage: checkpoint.block(stage.block))
    bits = bits_per_dim(
        checkpoint,
        pictures,
        lambda stage: quantize_block(
            checkpoint.block(stage.block),
            {name: FORMATS[f] for name, f in formats(stage.block).items()},
            "gptq",
            inputs[stage.block],
        ),
    )
    return float((bits - trained).mean())


def test_the_search_keeps_its_limit(model: Model, table: list[Sensitivity]) -> None:
    whole = search_formats(*model, table, "gptq", SearchLimit(max_increase=1e6))
    limit = whole.steering.mean / 3
    found = search_formats(*model, table, "gptq", SearchLimit(max_increase=limit))
    assert whole.nbytes < found.nbytes
    assert found.steering.high <= limit
    real = _real_change(model, lambda block: dict(found.formats.get(block, {})))
    assert real == pytest.approx(found.steering.mean, abs=1e-6)
    tried = [p for p in found.points if p.measured and p.measured.high <= limit]
    assert min(p.nbytes for p in tried) == found.nbytes
    assert [p.nbytes for p in found.points if p.chosen] == [found.nbytes]


def test_a_limit_of_zero_leaves_all_float(model: Model, table: list[Sensitivity]) -> None:
    worse = [replace(s, increase=s.increase + 1e-3) for s in table]
    found = search_formats(*model, worse, "gptq", SearchLimit(max_increase=0.0))
    assert found.formats == {}
    assert (found.steering.mean, found.steering.high) == (0.0, 0.0)


def test_the_search_keeps_a_size(model: Model, table: list[Sensitivity]) -> None:
    smallest = search_formats(*model, table, "gptq", SearchLimit(max_increase=1e6)).nbytes
    found = search_formats(*model, table, "gptq", SearchLimit(max_bytes=2 * smallest))
    assert smallest <= found.nbytes <= 2 * smallest
    with pytest.raises(UsageError, match=f"no mixture of formats takes less than {smallest} bytes"):
        search_formats(*model, table, "gptq", SearchLimit(max_bytes=smallest - 1))


@pytest.mark.parametrize("limits", [{}, {"max_increase": 0.1, "max_bytes": 5}])
def test_one_limit_is_needed(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="either"):
        SearchLimit(**limits)


def test_a_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="the limit of bits/dim is nan"):
        SearchLimit(max_increase=float("nan"))


def test_the_frontier_is_drawn_and_tabled(model: Model, table: list[Sensitivity]) -> None:
    found = search_formats(*model, table, "gptq", SearchLimit(max_increase=1e6))
    predicted = [p.predicted for p in found.points]
    assert predicted == sorted(predicted, reverse=True)
    rows = frontier_rows(found.points, 4 * 10**6)
    assert {len(row) for row in rows} == {len(HEADER)}
    assert len(rows) < len(found.points)
    assert [row[-1] for row in rows].count("chosen") == 1
    drawing = ElementTree.fromstring(frontier_svg("a <model>", found.points, 0.005))
    circles = [e for e in drawing.iter() if e.tag.endswith("circle")]
    assert len(circles) == sum(p.measured is not None for p in found.points)
