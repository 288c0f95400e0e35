"""What was made is kept: pictures are written as they are made, and one NaN loses no others."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Terminal

from flowship.runtime import Flow, NonFiniteError
from flowship.runtime import denoise as denoise_module
from flowship.runtime import flow as flow_module
from flowship.runtime.commands import generate as generate_module
from flowship.runtime.commands import interpolate as interpolate_module
from flowship.runtime.commands import job as job_module
from flowship.runtime.recipe_files import read_recipe

HUGE = 3e38  # finite, but its square in LayerNorm is not


@pytest.fixture
def bad_seeds(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Seeds of this set make NaN."""
    seeds: set[int] = set()
    draw = flow_module.draw_noise

    def draw_noise(wanted: Any, spec: Any) -> npt.NDArray[np.float32]:
        noise = draw(wanted, spec)
        for i, seed in enumerate(wanted):
            if seed in seeds:
                noise[i, 10] = HUGE
        return noise

    monkeypatch.setattr(flow_module, "draw_noise", draw_noise)
    monkeypatch.setattr(job_module, "draw_noise", draw_noise)
    monkeypatch.setattr(interpolate_module, "draw_noise", draw_noise)
    return seeds


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_module, "MAX_PICTURES_TOGETHER", 3)


# ---- NaN ----------------------------------------------------------------------------------------


def test_the_other_pictures_of_a_grid_are_written(flowship: Terminal, bad_seeds: set[int]) -> None:
    flowship.ok("generate", "--seed", "1,3,4", "-o", "good.png", "--save-latent", "good.npy")
    bad_seeds.add(2)
    ran = flowship("generate", "--seed", "1-4", "-o", "x.png", "--save-latent", "x.npy", "-q")
    assert (ran.status, ran.out) == (1, "x.png\n")
    assert "1 of 4 pictures failed: seed 2 gave NaN or infinity in block3 at patch" in ran.err
    assert ran.err.count("\n") == 1
    assert read_recipe("x.png").seeds == (1, 3, 4)
    assert Path("x.png").read_bytes() == Path("good.png").read_bytes()
    assert Path("x.npy").read_bytes() == Path("good.npy").read_bytes()


@pytest.mark.usefixtures("small_batches")
def test_the_other_pictures_of_many_are_written(flowship: Terminal, bad_seeds: set[int]) -> None:
    bad_seeds |= {1, 3, 4, 5}  # 3 to 5 run together
    ran = flowship("generate", "-n", 8, "--separate", "-o", "each", "--json", "-q")
    assert ran.status == 1
    assert "4 of 8 pictures failed: seeds 1, 3, 4, 5 gave NaN" in ran.err
    assert (ran.json["images"], ran.json["failed_seeds"]) == (4, [1, 3, 4, 5])
    assert ran.json["recipe"]["seeds"] == [0, 2, 6, 7]
    names = [f"fashion-mnist-{seed}.png" for seed in (0, 2, 6, 7)]
    assert sorted(os.listdir("each")) == names
    assert [Path(path).name for path in ran.json["output"]] == names
    flowship.ok("generate", "--seed", 2, "-o", "2.png")
    assert Path("each", names[1]).read_bytes() == Path("2.png").read_bytes()


def test_nothing_but_nan(flowship: Terminal, bad_seeds: set[int]) -> None:
    bad_seeds |= {0, 1}
    line = flowship.refused("generate", "-q", "-o", "x.png", status=1)
    assert "generate: seed 0 gave NaN or infinity in block3" in line
    line = flowship.refused("generate", "-n", 2, "--separate", "-q", "-o", "each", status=1)
    assert "2 of 2 pictures failed: seeds 0, 1 gave" in line
    assert os.listdir() == ["each"] and os.listdir("each") == []


def test_given_noise_and_strips(flowship: Terminal, bad_seeds: set[int]) -> None:
    bad_seeds.add(2)
    with Flow.open(threads=1) as flow:
        noise = flow_module.draw_noise([1, 2, 3], flow.spec)
    np.save("noise.npy", noise)
    ran = flowship("generate", "--noise", "noise.npy", "-o", "x.png", "-q")
    assert ran.status == 1 and "1 of 3 pictures failed: given noise 1 gave NaN" in ran.err
    assert read_recipe("x.png").seeds == (0, 2)
    ran = flowship("decode", "embedded", "noise.npy", "-o", "x.npy")
    assert ran.status == 1 and "1 of 3 pictures failed: latent 1 gave NaN" in ran.err
    assert np.isnan(np.load("x.npy")).all(axis=(1, 2, 3)).tolist() == [False, True, False]
    ran = flowship("interpolate", "--seeds", "1,2", "--steps", 3, "-o", "way.png", "-q")
    assert ran.status == 1 and "pictures failed: steps 1, 2 gave NaN" in ran.err
    assert read_recipe("way.png").seeds == (0,)
    flowship.ok("generate", "--like", "way.png", "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == Path("way.png").read_bytes()


def test_a_picture_that_fails_while_it_is_denoised(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowship.ok("generate", "--seed", "1,3", "--denoise", "-o", "good.png", "-q")
    through = denoise_module._through_block

    def broken(model: Any, step: Any, labels: Any, grad: Any) -> Any:
        found = through(model, step, labels, grad)
        if 2 in labels:
            found[list(labels).index(2)] = np.nan
        return found

    monkeypatch.setattr(denoise_module, "_through_block", broken)
    words = ["--seed", "1,2,3", "--label", "none,2,none", "--denoise", "-o", "x.png", "-q"]
    ran = flowship("generate", *words)
    assert ran.status == 1
    assert "1 of 3 pictures failed: seed 2 gave NaN or infinity while it was denoised" in ran.err
    assert Path("x.png").read_bytes() == Path("good.png").read_bytes()


def test_python_raises_and_keeps_the_others(bad_seeds: set[int]) -> None:
    bad_seeds.add(2)
    with Flow.open(threads=1) as flow:
        with pytest.raises(NonFiniteError, match="1 of 3 pictures failed: seed 2 gave") as caught:
            flow.generate(seed=[1, 2, 3])
        assert caught.value.made.recipe.seeds == (1, 3)
        assert [(one.number, one.seed) for one in caught.value.failed] == [(1, 2)]
        noise = flow_module.draw_noise([1, 2], flow.spec)
        with pytest.raises(NonFiniteError, match="latent 1 gave NaN") as caught:
            flow.decode(noise)
        np.testing.assert_array_equal(caught.value.made[0], flow.decode(noise[:1])[0])
        with pytest.raises(NonFiniteError, match=r"^latent 0 gave NaN") as caught:
            flow.decode(noise[1:])
        assert caught.value.made is None
        (*_, last) = flow.events(seed=[1, 2, 3])
        assert len(last.result) == 2  # type: ignore[union-attr]


def test_previews_of_nan_do_not_end_the_work(bad_seeds: set[int]) -> None:
    bad_seeds.add(1)
    with Flow.open(threads=1) as flow:
        shown = [e.preview() for e in flow.events(seed=[0, 1]) if hasattr(e, "preview")]
    assert shown[-1].shape == (2, 1, 28, 28)


# ---- as they are made ---------------------------------------------------------------------------


@pytest.mark.usefixtures("small_batches")
def test_ctrl_c_leaves_what_was_made(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    follow, calls = job_module.follow, itertools.count()

    def until_ctrl_c(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return follow(*arguments)

    monkeypatch.setattr(generate_module, "follow", until_ctrl_c)
    ran = flowship("generate", "-n", 5000, "--separate", "-o", "each", "-q")
    assert (ran.status, ran.err) == (130, "flowship generate: cancelled\n")
    expected = [f"each/fashion-mnist-{seed}.png" for seed in range(6)]
    assert ran.out.split() == expected
    assert sorted(os.listdir("each")) == [Path(name).name for name in expected]


@pytest.mark.usefixtures("small_batches")
def test_batches_make_the_same_files(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["generate", "--seed", "4-9,4", "--label", "0,1,2,3,4,none,5", "--separate", "-q"]
    flowship.ok(*words, "-o", "few", "--save-latent", "few.npy")
    monkeypatch.setattr(generate_module, "MAX_PICTURES_TOGETHER", 64)
    flowship.ok(*words, "-o", "all", "--save-latent", "all.npy")
    names = sorted(os.listdir("all"))
    assert names[:3] == [f"fashion-mnist-4-{i}.png" for i in (0, 6)] + ["fashion-mnist-5.png"]
    assert sorted(os.listdir("few")) == names
    for name in names:
        assert Path("few", name).read_bytes() == Path("all", name).read_bytes()
    assert Path("few.npy").read_bytes() == Path("all.npy").read_bytes()
    np.save("again.npy", np.load("all.npy"))
    assert Path("again.npy").read_bytes() == Path("all.npy").read_bytes()


def test_more_pictures_than_a_recipe_names(flowship: Terminal, bad_seeds: set[int]) -> None:
    line = flowship.refused("generate", "-n", 65_537, "-o", "x.png")
    assert "one file's recipe names at most 65,536 pictures, not 65,537: give --separate" in line
    line = flowship.refused("generate", "--seed", "0,18446744073709551616", "--separate")
    assert "seed 18446744073709551616 is not between" in line
    assert os.listdir() == []
