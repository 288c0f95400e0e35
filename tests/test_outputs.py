"""The suffix of a name says what is written, and a name that was not asked for is never taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal
from PIL import Image

from flowship.runtime import Flow, UsageError
from flowship.runtime.images import to_uint8
from flowship.runtime.outputs import (
    ARRAYS,
    NPY,
    PICTURES,
    PNG,
    check_output,
    check_suffix,
    free_name,
)
from flowship.runtime.picture_formats import check_sheet
from flowship.runtime.spec import ImageSpec


def _refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_flow(*_: object, **__: object) -> None:
        raise AssertionError("the work must not begin")

    monkeypatch.setattr(Flow, "open", open_flow)


# ---- what a suffix asks for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "suffixes"),
    [
        ("generate -o x{}", ".png or .jpg or .jpeg or .webp or .npy or .npz"),
        ("interpolate --seeds 1,2 -o x{}", ".png or .jpg or .jpeg or .webp or .npy or .npz"),
        ("decode embedded in.npy -o x{}", ".png or .jpg or .jpeg or .webp or .npy or .npz"),
        ("encode embedded in.png -o x{}", ".npy or .npz"),
        ("generate --save-latent x{}", ".npy"),
        ("plan --plot x{}", ".svg"),
        ("export in.pth --plot x{}", ".svg"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gif", ".png.tmp"])
def test_another_suffix_is_refused_before_the_work(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch, words: str, suffixes: str, suffix: str
) -> None:
    _refuse_work(monkeypatch)
    line = flowship.refused(*words.format(suffix).split())
    assert f"x{suffix}: name a file that ends in {suffixes}" in line
    assert os.listdir() == []


def test_latents_are_no_picture(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse_work(monkeypatch)
    line = flowship.refused("encode", "embedded", "in.png", "-o", "z.png")
    assert "z.png: name a file that ends in .npy or .npz" in line


def test_devices_and_pipes_have_any_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/null", tmp_path / "pipe"):
        assert check_output(place, (*PICTURES, *ARRAYS)) == PNG
        assert check_output(place, (*ARRAYS, *PICTURES)) == NPY
        check_suffix(place, (".svg",))
    (tmp_path / "link").symlink_to("x.png")
    with pytest.raises(UsageError, match=r"link: name a file that ends in"):
        check_output(tmp_path / "link", PICTURES)


def test_picture_formats(flowship: Terminal) -> None:
    words = ["generate", "--seed", "3-6", "--label", "bag", "-q"]
    for name in ("a.png", "a.JPG", "a.jpeg", "a.webp"):
        assert flowship.ok(*words, "-o", name).out == f"{name}\n"
    found = {}
    for name in ("a.png", "a.JPG", "a.jpeg", "a.webp"):
        with Image.open(name) as image:
            found[name] = image.format, np.asarray(image.convert("L")).astype(int)
    assert [kind for kind, _ in found.values()] == ["PNG", "JPEG", "JPEG", "WEBP"]
    np.testing.assert_array_equal(found["a.webp"][1], found["a.png"][1])
    assert np.abs(found["a.JPG"][1] - found["a.png"][1]).mean() < 3


def test_arrays(flowship: Terminal) -> None:
    words = ["generate", "--seed", "3,18446744073709551615", "--label", "bag,none", "-q"]
    flowship.ok(*words, "-o", "a.png", "--save-latent", "noise.npy")
    ran = flowship.ok(*words, "-o", "a.npy")
    assert ran.err == "note: the recipe is not in a.npy: a .npy holds one array\n"
    flowship.ok(*words, "-o", "a.NPZ")
    images = np.load("a.npy")
    assert (images.shape, images.dtype) == ((2, 1, 28, 28), np.dtype("<f4"))
    with np.load("a.NPZ") as arrays:
        assert set(arrays) == {"images", "noise", "seeds", "labels", "recipe"}
        np.testing.assert_array_equal(arrays["images"], images)
        np.testing.assert_array_equal(arrays["noise"], np.load("noise.npy"))
        assert arrays["seeds"].tolist() == [3, (1 << 64) - 1]
        assert arrays["labels"].tolist() == [8, -1]
    with Image.open("a.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[:, :28], to_uint8(images[0, 0]))
    flowship.ok("generate", "--like", "a.NPZ", "-o", "b.png", "-q")
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    flowship.ok("generate", "--noise", "a.NPZ", "--label", "bag,none", "-o", "c.npy", "-q")
    np.testing.assert_array_equal(np.load("c.npy"), images)


def test_decoded_pictures_and_encoded_arrays(flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", "3-4", "-o", "a.npz", "-q")
    flowship.ok("decode", "embedded", "a.npz", "-o", "x.npy")
    with np.load("a.npz") as arrays:
        np.testing.assert_array_equal(np.load("x.npy"), arrays["images"])
    ran = flowship.ok("decode", "embedded", "a.npz", "-o", "x.png")
    assert ran.err == "note: x.png has no recipe, generate --noise writes one\n"
    with Image.open("x.png") as image:
        assert image.size == (58, 28) and "flowship" not in image.info
    flowship.ok("encode", "embedded", "x.npy", "-o", "z.npz")
    with np.load("z.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "z": (2, 49, 16), "logdet": (2,), "bits_per_dim": (2,), "names": (2,),
        }  # fmt: skip
    flowship.ok("decode", "embedded", "z.npz", "--input", "z", "-o", "y.npz")
    with np.load("y.npz") as arrays:
        np.testing.assert_allclose(arrays["images"], np.load("x.npy"), atol=1e-4)
    line = flowship.refused("decode", "embedded", "z.npz", "-o", "y.npy")
    assert "z.npz has no array 'noise'" in line
    np.savez("hostile.npz", noise=np.zeros((1, 50, 16), np.float32))
    line = flowship.refused("decode", "embedded", "hostile.npz", "-o", "y.npy")
    assert "hostile.npz cannot be read as .npz: the shape is [1, 50, 16]" in line


def test_pictures_that_a_format_cannot_hold() -> None:
    spec = ImageSpec(img_size=256, in_channels=3, patch_size=8, num_patches=1024)
    check_sheet("x.png", PNG, 5000, None, spec)
    check_sheet("x.webp", "WEBP", 63 * 63, None, spec)
    for kind, columns in (("WEBP", None), ("JPEG", 1)):
        with pytest.raises(UsageError, match=f"pixels, and a {kind} has at most .* a side"):
            check_sheet("x", kind, 5000, columns, spec)


def test_python_saves_by_the_suffix_too(tmp_path: Path) -> None:
    with Flow.open(threads=1) as flow:
        made = flow.generate(seed=7)
    made.save(tmp_path / "x.webp")
    with Image.open(tmp_path / "x.webp") as image:
        assert image.format == "WEBP"
    with pytest.raises(UsageError, match=r"x\.gif: name a file that ends in \.png or"):
        made.save(tmp_path / "x.gif")
    with pytest.warns(UserWarning, match=r"x\.npy: the recipe is not in it"):
        made.save(tmp_path / "x.npy")


# ---- names --------------------------------------------------------------------------------------


def test_free_names(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        with free_name(tmp_path / "x.png") as path:
            names.append(path.name)
    assert names == ["x.png", "x-1.png", "x-2.png"]
    (tmp_path / "x-1.png").write_bytes(b"same")
    with free_name(tmp_path / "x.png", b"same") as path:
        assert path.name == "x-1.png"
    (tmp_path / "y.png").symlink_to("nowhere")
    with pytest.raises(ValueError), free_name(tmp_path / "y.png") as path:
        assert path.name == "y-1.png"
        raise ValueError
    assert not (tmp_path / "y-1.png").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("generate", ["fashion-mnist-0.png"]),
        ("generate -n 2", ["fashion-mnist-0.png"]),
        ("generate -n 2 --separate", ["fashion-mnist-0.png", "fashion-mnist-1.png"]),
        ("interpolate --seeds 1,2 --steps 2", ["interpolation.png"]),
    ],
)
def test_default_names_leave_other_files_alone(
    flowship: Terminal, words: str, names: list[str]
) -> None:
    for name in names:
        Path(name).write_bytes(b"mine")
    first = flowship.ok(*words.split(), "-q").out.split()
    assert first == [name.replace(".png", "-1.png") for name in names]
    again = flowship.ok(*words.split(), "-q").out.split()
    assert again == [name.replace(".png", "-2.png") for name in names]
    assert all(Path(name).read_bytes() == b"mine" for name in names)
    assert Path(again[0]).read_bytes() == Path(first[0]).read_bytes()


def test_a_name_that_was_given_is_overwritten(flowship: Terminal) -> None:
    Path("x.png").write_bytes(b"mine")
    assert flowship.ok("generate", "-q", "-o", "x.png").out == "x.png\n"
    assert sorted(os.listdir()) == ["x.png"] and Path("x.png").stat().st_size > 4


@pytest.mark.parametrize("name", ["mine", "/dev/null"])
def test_separate_pictures_need_a_folder(flowship: Terminal, name: str) -> None:
    Path("mine").write_bytes(b"mine")
    words = ("generate", "--seed", "4-5", "--separate", "-o", name)
    assert f"{name} is a file name, --separate wants a folder" in flowship.refused(*words)


def test_separate_pictures_of_another_kind_stay(flowship: Terminal) -> None:
    words = ["generate", "--seed", "4-5", "--separate", "-o", "each", "-q"]
    plain = flowship.ok(*words).out
    assert flowship.ok(*words).out == plain  # the same pictures: nothing new
    before = {path.name: path.read_bytes() for path in Path("each").iterdir()}
    guided = flowship.ok(*words, "--label", "bag").out.split()
    assert guided == ["each/fashion-mnist-4-1.png", "each/fashion-mnist-5-1.png"]
    assert flowship.ok(*words, "--label", "bag").out.split() == guided
    assert {name: Path("each", name).read_bytes() for name in before} == before
    assert len(os.listdir("each")) == 4


# ---- options that leave nothing to each other ---------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate --noise n.npy --seed 0", "--noise leaves nothing to --seed"),
        ("generate --noise n.npy -n 1", "--noise leaves nothing to --num-images"),
        ("generate --separate --columns 3", "--separate leaves nothing to --columns"),
        ("generate -o x.npy --columns 3", "--columns is for pictures, not for x.npy"),
        ("generate --like a.png --seed 0", "leave out --seed"),
        ("generate --like a.png --engine onnx --plan saved", "leave out --engine, --plan"),
        ("generate --like a.png --denoise", "leave out --denoise"),
        ("bench -r 3 --max-seconds 9", "--repeats leaves nothing to --max-seconds"),
        ("bench predict --threads 2", "--threads goes with --this-device"),
        ("score embedded a.png --noise-seed 0", "--noise-seed changes nothing without --noise"),
    ],
)
def test_options_that_would_be_ignored(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    _refuse_work(monkeypatch)
    assert message in flowship.refused(*words.split())
    assert os.listdir() == []


def test_notes_are_about_what_was_given(flowship: Terminal) -> None:
    ran = flowship.ok("generate", "--guidance", 1, "-o", "a.png", "-q")
    assert (
        ran.err == "note: guidance changes nothing without --label or an --attn-temp other than 1\n"
    )
    assert flowship.ok("generate", "--like", "a.png", "-o", "b.png", "-q").err == ""
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    ran = flowship.ok("generate", "--guide-what", "a", "-o", "c.png", "-q")
    assert ran.err == "note: --guide-what changes nothing without --guidance\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, even of root")
def test_folders_that_take_no_files(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "no file can be made in the folder"
    assert refused in flowship.refused("generate", "--separate", "-o", "/proc")
    monkeypatch.chdir("/proc")
    assert refused in flowship.refused("generate")
    assert refused in flowship.refused("interpolate", "--seeds", "1,2")


def test_a_folder_called_as_a_picture_is_no_matter(flowship: Terminal, tmp_path: Path) -> None:
    (tmp_path / "picture.png").mkdir()
    assert flowship.ok("generate", "-q").out == "fashion-mnist-0.png\n"


@pytest.mark.parametrize("at", [200, 3000])
def test_damaged_arrays(flowship: Terminal, tmp_path: Path, at: int) -> None:
    noise = np.zeros((1, 49, 16), np.float32)
    np.savez_compressed(tmp_path / "x.npz", noise=noise, more=np.arange(4000))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[at - 150 : at] = bytes(150)
    (tmp_path / "x.npz").write_bytes(data)
    line = flowship.refused("decode", "embedded", "x.npz", "-o", "x.npy")
    assert "x.npz" in line
