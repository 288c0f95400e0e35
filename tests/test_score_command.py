"""score and encode go on past what cannot be read, and say what they did to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image

from flowship.runtime.commands import in_batches
from flowship.runtime.errors import NonFiniteError
from flowship.runtime.flow import Flow

RNG = np.random.default_rng(0)


def _picture(name: str, size: tuple[int, int] = (28, 28), mode: str = "L") -> None:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8)).save(name)


@pytest.fixture
def folder(flowship: Terminal) -> Path:
    """a.png, bad.png, b.npy of three, broken.npy, c.png."""
    Path("in").mkdir()
    _picture("in/a.png")
    Path("in/bad.png").write_text("hello")
    np.save("in/b.npy", RNG.integers(0, 256, (3, 28, 28)).astype(np.uint8))
    np.save("in/broken.npy", np.full((2, 1, 28, 28), np.nan, np.float32))
    _picture("in/c.png")
    return Path("in")


def test_score_goes_on_past_files_that_cannot_be_read(flowship: Terminal, folder: Path) -> None:
    ran = flowship("score", "embedded", folder, "--json", "-q")
    assert ran.status == 1
    names = [image["name"] for image in ran.json["images"]]
    assert names == ["in/a.png", "in/b.npy[0]", "in/b.npy[1]", "in/b.npy[2]", "in/c.png"]
    assert [f["name"] for f in ran.json["failed"]] == ["in/bad.png", "in/broken.npy"]
    assert "NaN" in ran.json["failed"][1]["error"]
    mean = np.mean([image["bits_per_dim"] for image in ran.json["images"]])
    assert ran.json["mean_bits_per_dim"] == pytest.approx(mean)
    first, _, last = ran.err.splitlines()
    assert first.startswith("flowship score: in/bad.png cannot be read")
    assert last == "flowship score: 2 were left out: in/bad.png, in/broken.npy"
    table = flowship("score", "embedded", folder, "-q")
    assert table.status == 1 and len(table.out.splitlines()) == len(names) + 3


def test_labels_and_noise_belong_to_pictures_whatever_fails(
    flowship: Terminal, folder: Path
) -> None:
    """Seven pictures, broken.npy has two, in the order of the folder."""
    label = ["--label", "1,2,3,4,0,0,0,5", "--noise", "train", "--noise-seed", "9"]
    found = flowship("score", "embedded", folder, "-q", "--json", *label).json["images"][-1]
    one = ["--label", "5", "--noise", "train", "--noise-seed", str(9 + 7)]
    (alone,) = flowship.ok("score", "embedded", "in/c.png", "--json", *one).json["images"]
    assert found["bits_per_dim"] == pytest.approx(alone["bits_per_dim"], abs=1e-5)


def test_batches_give_what_one_call_gives(
    flowship: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = flowship("score", "embedded", folder, "--json", "-q").json["images"]
    monkeypatch.setattr(in_batches, "MAX_PICTURES_TOGETHER", 2)
    apart = flowship("score", "embedded", folder, "--json", "-q").json["images"]
    assert [i["name"] for i in together] == [i["name"] for i in apart]
    bits = [[i["bits_per_dim"] for i in images] for images in (together, apart)]
    np.testing.assert_allclose(bits[0], bits[1], rtol=0, atol=1e-5)


def test_encode_goes_on_too_and_says_whose_rows_there_are(flowship: Terminal, folder: Path) -> None:
    ran = flowship("encode", "embedded", folder, "-o", "z.npy", "--json", "-q")
    assert ran.status == 1
    assert len(np.load("z.npy")) == len(ran.json["images"]) == 5
    assert [f["name"] for f in ran.json["failed"]] == ["in/bad.png", "in/broken.npy"]
    Path("bad").mkdir()
    Path("bad/x.png").write_text("hello")
    ran = flowship("encode", "embedded", "bad", "-o", "y.npy")
    assert (ran.status, ran.out) == (1, "") and "bad/x.png cannot" in ran.err
    assert not Path("y.npy").exists()


def test_a_folder_of_nothing_that_can_be_read(flowship: Terminal) -> None:
    Path("bad").mkdir()
    Path("bad/x.png").write_text("hello")
    assert "bad/x.png cannot be read" in flowship.refused("score", "embedded", "bad", status=1)
    found = flowship("score", "embedded", "bad", "--json").json
    assert found["mean_bits_per_dim"] is None and found["images"] == []


def test_one_picture_that_is_not_finite_costs_no_other(
    flowship: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Flow.log_likelihood
    dark = Image.new("L", (28, 28), 0)
    dark.save("in/dark.png")

    def log_likelihood(self: Flow, images: Any, **options: Any) -> Any:
        if (np.asarray(images) == -1).all(axis=(1, 2, 3)).any():
            raise NonFiniteError("encoding gave NaN")
        return real(self, images, **options)

    monkeypatch.setattr(Flow, "log_likelihood", log_likelihood)
    ran = flowship("score", "embedded", folder, "--json", "-q")
    assert ran.status == 1 and len(ran.json["images"]) == 5
    assert {"name": "in/dark.png", "error": "in/dark.png: encoding gave NaN"} in ran.json["failed"]


def test_ctrl_c_prints_what_was_scored(
    flowship: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Flow.log_likelihood, iter(range(9))

    def log_likelihood(self: Flow, images: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(self, images, **options)

    monkeypatch.setattr(Flow, "log_likelihood", log_likelihood)
    monkeypatch.setattr(in_batches, "MAX_PICTURES_TOGETHER", 1)
    ran = flowship("score", "embedded", folder, "--json", "-q")
    assert ran.status == 130 and ran.json["interrupted"]
    assert "stopped after 2 pictures" in ran.err
    assert [image["name"] for image in ran.json["images"]] == ["in/a.png", "in/b.npy[0]"]


# ---- what was done to pictures ------------------------------------------------------------------


def test_what_was_done_to_pictures_is_said(flowship: Terminal) -> None:
    _picture("fits.png")
    _picture("photo.png", (64, 48), "RGB")
    np.save("x.npy", np.zeros((1, 1, 28, 28), np.float32))
    ran = flowship.ok("score", "embedded", "fits.png", "photo.png", "x.npy", "--json")
    done = {image["name"]: image["prepared"] for image in ran.json["images"]}
    photo = {"from": [64, 48], "resized": True, "cropped": True, "converted": "RGB to grey"}
    assert done == {"fits.png": None, "photo.png": photo, "x.npy": None}
    out = flowship.ok("score", "embedded", "fits.png", "photo.png").out
    marked = [line.split()[0] for line in out.splitlines() if line.endswith("*")]
    assert marked == ["photo.png"]
    assert "* resized, cropped or converted to 28 x 28 grey" in out
    assert "*" not in flowship.ok("score", "embedded", "fits.png").out
    encoded = flowship.ok("encode", "embedded", "photo.png", "-o", "z.npy", "--json").json
    assert encoded["images"][0]["prepared"] == photo


@pytest.mark.parametrize("command", ["score", "encode"])
def test_exact_size(flowship: Terminal, command: str) -> None:
    output = ["-o", "z.npy"] if command == "encode" else []
    _picture("fits.png")
    _picture("photo.png", (64, 48))
    _picture("wide.png", (29, 28))
    flowship.ok(command, "embedded", "fits.png", "--exact-size", *output)
    line = flowship.refused(command, "embedded", ".", "--exact-size", *output)
    assert "photo.png is 64 x 48 pixels (1 more has another size too)" in line
    assert "the model's 28 x 28 alone" in line


def test_score_says_what_its_number_cannot_tell(flowship: Terminal) -> None:
    """Plain pictures score better than anything the model was trained on: no verdict."""
    Image.new("L", (28, 28), 0).save("black.png")
    flowship.ok("generate", "--label", "bag", "-o", "bag.png")
    ran = flowship.ok("score", "embedded", "black.png", "bag.png", "--label", "bag", "--json").json
    black, bag = (image["bits_per_dim"] for image in ran["images"])
    assert black < bag
    assert "cannot tell whether a picture is like the training data" in ran["meaning"]


def test_noise_seeds_that_are_none(flowship: Terminal) -> None:
    _picture("a.png")
    words = ("score", "embedded", "a.png", "--noise", "train", "--noise-seed")
    assert "noise_seed -1 is not between 0" in flowship.refused(*words, "-1")
    assert "noise_seed 18446744073709551616" in flowship.refused(*words, str(1 << 64))
