"""The Python API takes numpy's numbers and arrays, and says what was given instead of one."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from multiprocessing import get_context
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_spec

from flowship.runtime import (
    BundleError,
    Flow,
    MissingExtraError,
    NonFiniteError,
    UsageError,
)
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.engines import EngineOptions
from flowship.runtime.flow import draw_noise
from flowship.runtime.guidance import Guidance
from flowship.runtime.images import from_uint8, grid
from flowship.runtime.labels import resolve_labels
from flowship.runtime.model import check_finite
from flowship.runtime.plan import Plan
from flowship.runtime.recipe import MAX_PICTURES
from flowship.runtime.recipe_files import read_recipe
from flowship.runtime.values import flag, real, seeds_of, several, whole, word

LEVELS = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28)).astype(np.uint8)


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow.open(plan="default") as opened:
        yield opened


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed", [np.int64(7), np.uint8(7), np.uint64(7), np.array(7), [7], (7,), range(7, 8),
             np.array([7], np.int16), np.array([7], object), iter([7]), [np.array(7)]]
)  # fmt: skip
def test_any_integer_is_a_seed(seed: Any) -> None:
    (found,) = seeds_of(seed)
    assert found == 7 and type(found) is int


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (1.0, r"seed 1\.0 is not a whole number"),
        (None, "seed None"),
        ("7", "seed '7'"),
        (b"7", "seed b'7'"),
        (True, "seed True"),
        (np.bool_(True), "True"),
        (np.float64(1), "1.0"),
        (float("nan"), "seed nan"),
        (-1, r"seed -1 is not between 0 and 2\^64 - 1"),
        (np.int8(-1), "seed -1"),
        (1 << 64, "seed 18446744073709551616"),
        ([1, 2.0], r"seed 2\.0"),
        ([1, None], "seed None"),
        (np.array([1.0, 2.0]), r"seed .*1\.0"),
        (np.array([[1, 2]]), r"seed array\(\[1, 2\]\)"),
        ([], r"no seed: \[\] is empty"),
        ({1, 2}, "has no order: give a list"),
        ({1: 2}, "has no order"),
        (object(), "is not a whole number"),
    ],
)
def test_what_is_no_seed_is_said(seed: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        seeds_of(seed)


def test_tensors_are_numbers_too() -> None:
    torch = pytest.importorskip("torch")
    assert seeds_of(torch.arange(3)) == [0, 1, 2] and whole(torch.tensor(5), "x") == 5
    assert real(torch.tensor(1.5), "x") == 1.5 and flag(torch.tensor(True), "x") is True
    for value in (torch.tensor(True), torch.tensor([3])):
        with pytest.raises(UsageError, match="is not a whole number"):
            whole(value, "x")


def test_real_numbers() -> None:
    given = [2, np.float32(2), np.float16(2), np.int8(2), np.array(2.0), Fraction(2), np.uint64(2)]
    assert [real(value, "x") for value in given] == [2.0] * len(given)
    assert all(type(real(value, "x")) is float for value in given)
    for value in ("2", None, True, 1j, float("nan"), -np.inf, [2.0], np.ones(1), Decimal("2")):
        with pytest.raises(UsageError, match=r"x .* is not a finite number"):
            real(value, "x")


def test_switches_and_words() -> None:
    assert [flag(v, "x") for v in (True, np.False_, np.array(True), 1, 0)] == [1, 0, 1, 1, 0]
    for value in ("no", None, 2, 0.0, [True], np.array([True])):
        with pytest.raises(UsageError, match="is neither True nor False"):
            flag(value, "x")
    assert type(word(np.str_("a"), ("a", "b"), "x")) is str
    for other in (np.array(["a", "b"]), ["a"], None, "c", 1):
        with pytest.raises(UsageError, match="is neither 'a' nor 'b'"):
            word(other, ("a", "b"), "x")
    assert several("ab", "x") is several(3, "x") is several(np.array(3), "x") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": "7"}, "seed '7'"),
        ({"seed": (1 << 64) - 1, "num_images": 2}, "with the 1 after it is not between"),
        ({"num_images": 1.0}, r"num_images 1\.0 is not a whole number"),
        ({"num_images": True}, "num_images True"),
        ({"num_images": np.int64(0)}, "num_images 0 is not between 1"),
        ({"num_images": MAX_PICTURES + 1}, "num_images 65537 is not between"),
        ({"seed": range(MAX_PICTURES + 1)}, "65537 seeds"),
        ({"guidance": "1"}, "guidance '1' is not a finite number"),
        ({"guidance": float("nan")}, "guidance nan"),
        ({"guidance": [1.0, 2.0]}, "guidance"),
        ({"guidance": True}, "guidance True"),
        ({"guide_what": ["a"]}, r"guide_what \['a'\]"),
        ({"annealed": "no"}, "annealed 'no'"),
        ({"attn_temp": np.inf}, "attn_temp inf"),
        ({"denoise": "no"}, "denoise 'no'"),
        ({"label": b"1"}, "label b'1'"),
        ({"label": np.array([1.0])}, "label .*1.0"),
        ({"label": {1, 2}}, "label .* has no order"),
        ({"label": np.True_}, "label .*True"),
        ({"label": []}, "0 labels for 1 picture"),
    ],
)
def test_wrong_numbers_are_refused_before_the_work(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("the work must not begin")

    monkeypatch.setattr("flowship.runtime.flow.draw_noise", no_work)
    monkeypatch.setattr("flowship.runtime.flow.Decoding", no_work)
    with pytest.raises(UsageError, match=said):
        flow.generate(**options)


def test_what_was_made_of_numpy_is_saved(flow: Flow, tmp_path: Path) -> None:
    made = flow.generate(
        seed=np.arange(2),
        num_images=np.int64(2),
        label=np.array([3, None], object),
        guidance=np.float32(0.5),
        guide_what=np.str_("a"),
        annealed=np.bool_(True),  # type: ignore[arg-type]
        attn_temp=np.array(1.0),  # type: ignore[arg-type]
        denoise=np.False_,  # type: ignore[arg-type]
    )
    plain = flow.generate(seed=[0, 1], label=[3, None], guidance=0.5, guide_what="a", annealed=True)
    assert made.recipe == plain.recipe and np.array_equal(made.images, plain.images)
    assert type(made.recipe.guidance) is float and type(made.recipe.seeds[0]) is int
    assert read_recipe(made.save(tmp_path / "x.png", columns=np.int64(1))).columns == 1
    assert len(made.save_each(tmp_path)) == 2
    for columns in (1.0, True, 0, "2", -1):
        with pytest.raises(UsageError, match="columns"):
            made.save(tmp_path / "y.png", columns=columns)  # type: ignore[arg-type]
    one = flow.generate(seed=np.array(1), label=np.array("bag"))
    assert one.recipe.seeds == (1,) and one.recipe.labels == (8,)


def test_a_recipe_holds_plain_numbers(flow: Flow) -> None:
    recipe = flow.generate(seed=1).recipe
    numpy = replace(
        recipe,
        seeds=np.arange(3),  # type: ignore[arg-type]
        labels=np.array([1, 2, 3], np.uint8),  # type: ignore[arg-type]
        guidance=np.float64(1),
        columns=np.int8(2),
    )
    assert json.loads(numpy.dumps())["seeds"] == [0, 1, 2]
    assert {type(v) for v in (*numpy.seeds, *numpy.labels, numpy.columns)} == {int}
    for change in ({"seeds": (1.0,)}, {"guidance": float("inf")}, {"denoise": None}):
        with pytest.raises(UsageError):
            replace(recipe, **change)


def test_plans_hold_plain_numbers() -> None:
    plan = Plan({np.str_("block0"): np.int64(4)}, {}, np.float64(1e-5), {"block0": np.float32(2)})
    same = Plan({"block0": 4}, {}, 1e-5, {"block0": 2.0})
    assert plan == same and plan.sha256 == same.sha256
    for wrong in ({"block0": 4.0}, {"block0": True}, {0: 4}, [4]):
        with pytest.raises(UsageError, match=r"a window of|windows"):
            Plan(wrong)  # type: ignore[arg-type]
    for tolerance in (np.inf, "1", None):
        with pytest.raises(UsageError, match="tolerance is"):
            Plan(tolerance=tolerance)  # type: ignore[arg-type]


def test_other_numbers() -> None:
    assert EngineOptions("fp32", threads=np.int64(2)).threads == 2
    for threads in (True, 2.0, "2"):
        with pytest.raises(UsageError, match=f"threads {threads!r}"):
            EngineOptions("fp32", threads=threads)  # type: ignore[arg-type]
    assert type(Guidance(np.float32(1)).scale) is float
    spec = tiny_spec()
    assert np.array_equal(draw_noise(np.array([1, 2]), spec), draw_noise([1, 2], spec))
    with pytest.raises(UsageError, match=r"seed 1\.5"):
        draw_noise([1.5], spec)  # type: ignore[list-item]
    assert grid(LEVELS, np.int64(1)).shape == (1, 58, 28)
    labels = np.array(["sneaker", None, "2"], object)
    assert resolve_labels(labels, spec, 3) == (1, None, 2)


def test_a_plan_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="plan 'fast' is neither 'saved' nor 'default' nor a Plan"):
        Flow.open(plan="fast")  # type: ignore[arg-type]


# ---- arrays -------------------------------------------------------------------------------------


def _readonly(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "given",
    [
        LEVELS,
        LEVELS[:, 0],
        LEVELS.transpose(0, 2, 3, 1),
        LEVELS.tolist() and from_uint8(LEVELS).tolist(),
        from_uint8(LEVELS).astype(">f8"),
        np.repeat(from_uint8(LEVELS), 2, axis=2)[:, :, ::2],
        _readonly(from_uint8(LEVELS)),
        list(from_uint8(LEVELS)),
    ],
)
def test_8_bit_levels_and_layouts(flow: Flow, given: Any) -> None:
    expected = flow.log_likelihood(from_uint8(LEVELS)).bits_per_dim
    assert np.array_equal(flow.log_likelihood(given).bits_per_dim, expected)


def test_every_method_takes_levels(flow: Flow) -> None:
    floats = from_uint8(LEVELS)
    assert np.array_equal(flow.encode(LEVELS)[0], flow.encode(floats)[0])
    assert np.array_equal(flow.denoise(LEVELS), flow.denoise(floats))
    torch = pytest.importorskip("torch")
    tensor = flow.log_likelihood(torch.from_numpy(LEVELS)).bits_per_dim
    assert np.array_equal(tensor, flow.log_likelihood(floats).bits_per_dim)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LEVELS.astype(int), "the array of images holds int64, expected uint8, or float32"),
        (LEVELS.astype(np.int8), "holds int8"),
        (LEVELS > 9, "holds bool"),
        (LEVELS.astype(complex), "holds complex128"),
        (LEVELS.astype(object), "holds object"),
        (LEVELS.astype(np.float32), "holds whole numbers up to 255: save 8-bit levels as uint8"),
        (LEVELS.tolist(), "holds int64"),
        (np.full((1, 1, 28, 28), np.nan), "holds NaN"),
        (np.full((1, 1, 28, 28), 1e300), "numbers beyond float32"),
        ([], r"has the shape \[0\]"),
        (np.zeros((0, 1, 28, 28)), "holds no pictures"),
        (None, "holds object"),
        ([[1.0], [1.0, 2.0]], "cannot be read as numbers"),
        (np.zeros((1, 3, 28, 28)), r"has the shape \[1, 3, 28, 28\], expected \[N, 1, 28, 28\]"),
        (np.ma.masked_equal(np.zeros((1, 1, 28, 28)), 0), "has masked values"),
    ],
)
def test_other_arrays_are_refused(flow: Flow, given: Any, said: str) -> None:
    for method in (flow.encode, flow.denoise, flow.log_likelihood):
        with pytest.raises(UsageError, match=said):
            method(given)


def test_tensors_that_are_not_in_this_memory_are_refused(flow: Flow) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match="cannot be read as numbers"):
        flow.encode(torch.zeros(1, 1, 28, 28, requires_grad=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 49, 16), int), "the array of latents holds int64, expected float32"),
        (np.zeros((1, 49, 16), bool), "holds bool"),
        (np.zeros((49, 16)), r"has the shape \[49, 16\]"),
        (np.zeros((0, 49, 16)), "holds no latents"),
    ],
)
def test_wrong_latents(flow: Flow, given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        flow.decode(given)


def test_noise_seeds(flow: Flow) -> None:
    found = flow.log_likelihood(LEVELS, noise="train", noise_seed=np.uint8(3))
    same = flow.log_likelihood(LEVELS, noise="train", noise_seed=3)
    assert np.array_equal(found.bits_per_dim, same.bits_per_dim)
    for seed in (-1, 1.5, "1", True, (1 << 64) - 1):  # the second picture's would not fit
        with pytest.raises(UsageError, match="noise_seed"):
            flow.log_likelihood(LEVELS, noise="train", noise_seed=seed)  # type: ignore[arg-type]


def test_an_encoding_that_is_not_finite_speaks_of_pixels(flow: Flow) -> None:
    images = np.full((70, 1, 28, 28), 0.5, np.float32)
    images[66] = 1e30
    images[66, 0, 0, 0] = 0.5  # whole numbers alone would be taken for 8-bit levels
    with pytest.raises(NonFiniteError, match="picture 66: are its pixels") as caught:
        flow.encode(images)
    with pytest.raises(NonFiniteError, match=r"in the block's order\): are") as alone:
        flow.encode(images[66:67])
    assert "picture " not in str(alone.value)  # one has no number, those who know it have a name
    assert "seed" not in str(caught.value) and "guidance" not in str(caught.value)
    with pytest.raises(NonFiniteError, match="another seed"):
        block = flow.spec.ar_blocks[0]
        check_finite(np.full((1, 2, 3), np.nan, np.float32), block, 0, "generation")


# ---- pickling -----------------------------------------------------------------------------------


def test_a_flow_works_in_another_process(flow: Flow) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        made = pool.submit(methodcaller("generate", seed=5), flow).result()
    assert np.array_equal(made.images, flow.generate(seed=5).images)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_copies_are_opened_again(
    flow: Flow, again: Callable[[Flow], Flow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a zip by a relative path, with a plan and options of its own, closed or not."""
    archive = Path(shutil.make_archive(str(tmp_path / "x"), "zip", EMBEDDED))
    monkeypatch.chdir(tmp_path)
    plan = Plan.uniform(["block0"], 4)
    with Flow.open(archive.name, plan=plan, threads=1, precision="fp32") as first:
        expected = first.generate(seed=5).images
    monkeypatch.chdir("/")
    with again(first) as second:
        assert second.plan == plan and second.bundle.root != first.bundle.root
        assert np.array_equal(second.generate(seed=5).images, expected)
    archive.write_bytes(b"")
    with pytest.raises(BundleError, match="this is an empty file, not a bundle"):
        again(first)


def test_a_flow_of_parts_says_what_to_do(flow: Flow) -> None:
    with pytest.raises(TypeError, match="open the bundle in each process"):
        pickle.dumps(Flow(flow.bundle, flow.engine, flow.plan))


def test_another_bundle_at_the_same_place(flow: Flow) -> None:
    kind, (flow_type, _, given) = flow.__reduce__()
    with pytest.raises(BundleError, match="is not the bundle any more"):
        kind(flow_type, "0" * 64, given)


def test_errors_and_results_pickle(flow: Flow) -> None:
    error = MissingExtraError("x", "y", "z")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    made = flow.generate(seed=1)
    assert pickle.loads(pickle.dumps(made)).recipe == made.recipe
