"""The command line as a user and as a script meets it: options, files, JSON, streams."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Terminal
from conftest import CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING, Exporter, golden_model
from PIL import Image
from web_bundles import OwnBundle

from flowship import __version__
from flowship.runtime import Flow
from flowship.runtime.cli import COMMANDS
from flowship.runtime.images import to_uint8
from flowship.runtime.recipe_files import read_recipe

TOLERANCE = 1e-4  # max_abs_error of float32, as promised to scripts

# What the arrays of the golden files were made with, in words of the command line.
DECODE_OPTIONS: dict[str, str] = {
    "x_g0": "",
    "x_g1.5": "--guidance 1.5",
    "x_g1.5_annealed": "--guidance 1.5 --annealed-guidance",
    "x_g1.5_a": "--guidance 1.5 --guide-what a",
    "x_g1.5_b": "--guidance 1.5 --guide-what b",
    "x_g1.5_temp0.7": "--guidance 1.5 --attn-temp 0.7",
    "x_g1.5_annealed_temp0.7": "--guidance 1.5 --annealed-guidance --attn-temp 0.7",
    "x_g0.8_temp0.5": "--guidance 0.8 --attn-temp 0.5",
    "x_g0_denoised": "--denoise",
}


def _pixels(path: str | Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def _files() -> list[str]:
    return sorted(os.listdir())


@pytest.fixture
def conditional(exported: Exporter) -> Path:
    return exported(golden_model(CONDITIONAL).checkpoint)


# ---- decode and encode: the contract for scripts ------------------------------------------------


@pytest.mark.parametrize("name", [CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING])
def test_decode_gives_the_golden_arrays(name: str, flowship: Terminal, exported: Exporter) -> None:
    golden = golden_model(name)
    bundle = exported(golden.checkpoint)
    np.save("noise.npy", golden.arrays["noise"])
    label = ["--label", ",".join(map(str, golden.labels))] if golden.labels else []
    made = {key for key in golden.arrays if key.startswith("x_")}
    assert made <= set(DECODE_OPTIONS)
    for key in sorted(made):
        options = DECODE_OPTIONS[key].split()
        ran = flowship.ok("decode", bundle, "noise.npy", "-o", "x.npy", *label, *options)
        assert ran.out == "x.npy\n"
        images = np.load("x.npy")
        assert images.dtype == np.dtype("<f4")
        np.testing.assert_allclose(images, golden.arrays[key], rtol=0, atol=TOLERANCE, err_msg=key)


@pytest.mark.parametrize("name", [CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING])
def test_encode_gives_the_golden_arrays(name: str, flowship: Terminal, exported: Exporter) -> None:
    golden = golden_model(name)
    bundle = exported(golden.checkpoint)
    np.save("image.npy", golden.arrays["image"])
    label = ["--label", ",".join(map(str, golden.labels))] if golden.labels else []
    ran = flowship.ok("encode", bundle, "image.npy", "-o", "z.npy", *label, "--json")
    z, rows = np.load("z.npy"), ran.json["images"]
    assert z.dtype == np.dtype("<f4")
    np.testing.assert_allclose(z, golden.arrays["z"], rtol=0, atol=TOLERANCE)
    for key, array in (("logdet", "logdet"), ("bits_per_dim", "bits_per_dim_256")):
        found = [row[key] for row in rows]
        np.testing.assert_allclose(found, golden.arrays[array], rtol=0, atol=TOLERANCE)
    assert "256 levels over [-1, 1]" in ran.json["convention"]

    scored = flowship.ok("score", bundle, "image.npy", *label, "--json").json
    wanted = golden.arrays["bits_per_dim_256"]
    found = [row["bits_per_dim"] for row in scored["images"]]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert scored["mean_bits_per_dim"] == pytest.approx(np.mean(found))

    flowship.ok("decode", bundle, "z.npy", "-o", "back.npy", "--input", "z", *label)
    back = np.load("back.npy")
    np.testing.assert_allclose(back, golden.arrays["image"], rtol=0, atol=1e-3)


def test_noise_and_z_differ_by_the_learned_prior(flowship: Terminal, exported: Exporter) -> None:
    golden = golden_model(VOLUME_PRESERVING)
    bundle = exported(golden.checkpoint)
    with Flow.open(bundle) as flow:
        scale = np.sqrt(flow.bundle.array("var"))
    np.save("noise.npy", golden.arrays["noise"])
    np.save("z.npy", golden.arrays["noise"] * scale)
    flowship.ok("decode", bundle, "noise.npy", "-o", "a.npy", "--label", 1)
    flowship.ok("decode", bundle, "z.npy", "-o", "b.npy", "--label", 1, "--input", "z")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


def test_labels_by_number_and_by_name(flowship: Terminal) -> None:
    with Flow.open() as flow:
        T, D = flow.spec.latents[0].shape
    np.save("noise.npy", np.random.default_rng(0).standard_normal((2, T, D), np.float32))
    for i, label in enumerate(("7,9", "sneaker,ankle boot", "Sneaker, 9")):
        flowship.ok("decode", "embedded", "noise.npy", "-o", f"{i}.npy", "--label", label)
        assert Path(f"{i}.npy").read_bytes() == Path("0.npy").read_bytes()
    flowship.ok("decode", "embedded", "noise.npy", "-o", "none.npy")
    assert np.abs(np.load("none.npy") - np.load("0.npy")).max() > 0.01


def test_decode_json(flowship: Terminal, conditional: Path) -> None:
    np.save("noise.npy", golden_model(CONDITIONAL).arrays["noise"][:2])
    ran = flowship.ok("decode", conditional, "noise.npy", "-o", "x.npy", "--label", 1, "--json")
    assert ran.json["output"] == "x.npy"
    assert ran.json["shape"] == [2, 3, 16, 16]
    assert ran.json["seconds"] > 0


# ---- generate -----------------------------------------------------------------------------------


def test_generate_by_default(flowship: Terminal) -> None:
    ran = flowship.ok("generate")
    assert ran.out == "fashion-mnist-0.png\n"
    assert ran.err.startswith("1 picture in ")
    assert _files() == ["fashion-mnist-0.png"]
    assert _pixels("fashion-mnist-0.png").shape == (28, 28)


def test_generate_json(flowship: Terminal) -> None:
    words = ["generate", "--seed", 7, "--label", "sneaker", "-o", "a.png", "--json"]
    ran = flowship.ok(*words, "-q")
    found: dict[str, Any] = ran.json
    assert ran.err == ""
    assert set(found) == {
        "output", "images", "seconds", "seconds_per_image", "images_per_minute",
        "pixels_sha256", "recipe",
    }  # fmt: skip
    assert (found["output"], found["images"]) == (["a.png"], 1)
    recipe = found["recipe"]
    assert (recipe["seeds"], recipe["labels"], recipe["engine"]) == ([7], [7], "onnx")
    again = flowship.ok(*words).json
    assert again["pixels_sha256"] == found["pixels_sha256"]


def test_the_same_seed_is_the_same_file(flowship: Terminal) -> None:
    for name, threads in (("a", 1), ("b", 1), ("c", 2)):
        flowship.ok("generate", "--seed", 7, "-o", f"{name}.png", "--threads", threads)
    assert len({Path(f"{name}.png").read_bytes() for name in "abc"}) == 1


def test_ranges_of_seeds(flowship: Terminal) -> None:
    """However the pictures are asked for, each is that of its own seed."""
    hashes = {}
    for words in ("--seed 3 -n 4", "--seed 3-6", "--seed 3,4,5,6", "--seed 3,4-6 -n 4"):
        options = [*words.split(), "--label", "bag", "-o", "x.png", "--json"]
        hashes[words] = tuple(flowship.ok("generate", *options).json["pixels_sha256"])
    assert len(set(hashes.values())) == 1
    alone = [
        flowship.ok("generate", "--seed", seed, "--label", "bag", "-o", "x.png", "--json").json[
            "pixels_sha256"
        ][0]
        for seed in (3, 4, 5, 6)
    ]
    assert tuple(alone) == hashes["--seed 3 -n 4"]


@pytest.mark.parametrize(("columns", "rows"), [(None, 2), (2, 3), (5, 1)])
def test_a_grid_holds_the_single_pictures(
    flowship: Terminal, columns: int | None, rows: int
) -> None:
    option = ["--columns", columns] if columns else []
    flowship.ok("generate", "--seed", "0-4", "-o", "grid.png", *option)
    ran = flowship.ok("generate", "--seed", "0-4", "--separate", "-o", "each")
    singles = [_pixels(line) for line in ran.out.splitlines()]
    grid, wide = _pixels("grid.png"), columns or 3
    H, W = singles[0].shape
    step_y, step_x = (grid.shape[0] - H) // max(1, rows - 1), (grid.shape[1] - W) // (wide - 1)
    assert step_x in range(W, W + 8)
    for i, single in enumerate(singles):
        y, x = (i // wide) * step_y, (i % wide) * step_x
        np.testing.assert_array_equal(grid[y : y + H, x : x + W], single, err_msg=str(i))


def test_separate_files(flowship: Terminal) -> None:
    ran = flowship.ok("generate", "--seed", "4,9", "--label", "bag,dress", "--separate")
    assert ran.out.splitlines() == _files() == ["fashion-mnist-4.png", "fashion-mnist-9.png"]
    assert read_recipe(Path("fashion-mnist-9.png")).labels == (3,)
    flowship.ok("generate", "--seed", 9, "--label", "dress", "-o", "alone.png")
    np.testing.assert_array_equal(_pixels("fashion-mnist-9.png"), _pixels("alone.png"))


@pytest.mark.parametrize(
    "words",
    [
        "--seed 7 --label sneaker",
        "--seed 7 --label sneaker --guidance 1.5 --guide-what b --annealed-guidance",
        "--seed 0-4 --label 0,1,2,none,4 --columns 3",
        "--seed 3 --label bag --denoise",
        "--seed 18446744073709551615",
    ],
)
def test_like_makes_the_same_file(flowship: Terminal, words: str) -> None:
    flowship.ok("generate", *words.split(), "-o", "first.png")
    flowship.ok("generate", "--like", "first.png", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()


def test_like_of_one_picture_of_many(flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", "4-6", "--separate", "-o", "each")
    flowship.ok("generate", "--like", "each/fashion-mnist-5.png", "-o", "again.png")
    first = Path("each", "fashion-mnist-5.png")
    assert Path("again.png").read_bytes() == first.read_bytes()


def test_saved_noise_makes_the_same_pictures(flowship: Terminal) -> None:
    options = ["--label", "bag", "--guidance", 1]
    flowship.ok("generate", "--seed", "5-6", *options, "-o", "a.png", "--save-latent", "noise.npy")
    noise = np.load("noise.npy")
    assert (noise.shape, noise.dtype) == ((2, 49, 16), np.dtype("<f4"))
    flowship.ok("generate", "--noise", "noise.npy", *options, "-o", "b.png")
    np.testing.assert_array_equal(_pixels("b.png"), _pixels("a.png"))
    flowship.ok("decode", "embedded", "noise.npy", "-o", "x.npy", *options)
    flowship.ok("generate", "--noise", "noise.npy", *options, "--separate", "-o", "c")
    for path, image in zip(sorted(Path("c").iterdir()), np.load("x.npy"), strict=True):
        np.testing.assert_array_equal(_pixels(path), to_uint8(image)[0])


def test_a_model_without_classes(flowship: Terminal, exported: Exporter) -> None:
    bundle = exported(golden_model(UNCONDITIONAL).checkpoint)
    flowship.ok("generate", bundle, "-o", "a.png")
    ran = flowship.ok("generate", bundle, "-o", "b.png", "--label", 2)
    assert "no classes, --label changes nothing" in ran.err
    np.testing.assert_array_equal(_pixels("a.png"), _pixels("b.png"))
    assert _pixels("a.png").shape == (8, 8, 3)


def test_a_zip_is_a_bundle(flowship: Terminal, conditional: Path) -> None:
    shutil.make_archive("tiny", "zip", conditional.parent, conditional.name)
    shutil.make_archive("flat", "zip", conditional)
    flowship.ok("generate", conditional, "--label", 1, "-o", "folder.png")
    flowship.ok("generate", "flat.zip", "--label", 1, "-o", "zip.png")
    assert Path("zip.png").read_bytes() == Path("folder.png").read_bytes()


# ---- score and interpolate ----------------------------------------------------------------------


def test_score_of_files_and_folders(flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", "0-2", "--label", "bag", "--separate", "-o", "bags")
    ran = flowship.ok("score", "embedded", "bags", "bags/fashion-mnist-1.png", "--label", "bag")
    *rows, mean, convention, meaning = ran.out.splitlines()
    names = [row.split()[0] for row in rows]
    assert names == [f"bags/fashion-mnist-{i}.png" for i in (0, 1, 2, 1)]
    values = [float(row.split()[1]) for row in rows]
    assert values[1] == values[3]
    assert mean.split() == ["mean", f"{np.mean(values):.4f}"]
    assert convention.startswith("bits/dim, 256 levels over [-1, 1]")
    assert "it cannot tell whether a picture is like the training data" in meaning


def test_score_with_training_noise(flowship: Terminal) -> None:
    flowship.ok("generate", "-o", "a.png")
    words = ("score", "embedded", "a.png", "--noise", "train", "--json")
    first, same = flowship.ok(*words).json, flowship.ok(*words).json
    other = flowship.ok(*words, "--noise-seed", 1).json
    assert first == same != other
    assert "training noise of std 0.1" in first["convention"]


def test_interpolate_seeds(flowship: Terminal) -> None:
    ran = flowship.ok("interpolate", "--seeds", "1,2", "--steps", 4, "--label", "bag,coat")
    assert ran.out == "interpolation.png\n"
    strip = _pixels("interpolation.png")
    flowship.ok("generate", "--seed", "1", "--label", "bag", "-o", "first.png")
    flowship.ok("generate", "--seed", "2", "--label", "coat", "-o", "last.png")
    for end, place in (("first.png", strip[:, :28]), ("last.png", strip[:, -28:])):
        np.testing.assert_allclose(place.astype(int), _pixels(end), atol=1)


def test_interpolate_pictures(flowship: Terminal) -> None:
    for seed in (1, 2):
        flowship.ok("generate", "--seed", seed, "--label", "bag", "-o", f"{seed}.png")
    words = ["interpolate", "--images", "1.png", "2.png", "--steps", 3, "--label", "bag"]
    ran = flowship.ok(*words, "-o", "strip.png", "--json")
    assert ran.json["output"] == "strip.png"
    assert (ran.json["images"], ran.json["labels"]) == (3, [8, 8, 8])
    strip = _pixels("strip.png").astype(int)
    np.testing.assert_allclose(strip[:, :28], _pixels("1.png"), atol=1)
    np.testing.assert_allclose(strip[:, -28:], _pixels("2.png"), atol=1)


# ---- inspect, verify, export --------------------------------------------------------------------


def test_inspect_bundle(flowship: Terminal) -> None:
    text = flowship.ok("inspect").out
    for words in ("fashion-mnist: tarflow", "licence", "28x28 grey", "guided", "onnx", "fp32"):
        assert words in text
    found = flowship.ok("inspect", "embedded", "--json").json
    assert (found["kind"], found["name"]) == ("bundle", "fashion-mnist")
    assert found["classes"][7] == "sneaker"
    assert found["source"]["licence"] == "Apache-2.0"
    (memory,) = found["memory"]
    assert memory["guided_cache_bytes"] == 2 * memory["cache_bytes"] > 0
    assert found["quality"][0]["max_abs_error"] < TOLERANCE


def test_inspect_checkpoint(flowship: Terminal) -> None:
    golden = golden_model(CONDITIONAL)
    text = flowship.ok("inspect", golden.checkpoint).out
    assert "16x16 RGB, 16 patches of 4x4" in text
    found = flowship.ok("inspect", golden.checkpoint, "--json").json
    assert (found["kind"], found["config"]["num_classes"]) == ("checkpoint", 5)
    assert found["bytes"] == golden.checkpoint.stat().st_size
    assert {row["precision"] for row in found["memory"]} >= {"fp32", "fp16"}


def test_verify(flowship: Terminal) -> None:
    lines = flowship.ok("verify").out.splitlines()
    assert lines[-1] == "fashion-mnist: verified"
    assert all(line.startswith("ok ") for line in lines[:-1])
    found = flowship.ok("verify", "embedded", "--json", "--engine", "onnx").json
    assert (found["bundle"], found["passed"]) == ("fashion-mnist", True)
    names = " ".join(check["name"] for check in found["checks"])
    for words in ("files", "noise", "decode(encode(x))", "encode(decode(z))", "golden picture"):
        assert words in names


@pytest.mark.parametrize("engine", ["onnx", "executorch", "coreml"])
def test_verify_refuses_a_precision_that_it_has_no_limits_for(
    flowship: Terminal, engine: str
) -> None:
    own = OwnBundle().renamed("fp8")
    for artifact in own.manifest["artifacts"]:
        if artifact["precision"] == "fp8":
            artifact["engine"] = engine
    own.write(Path("own.flowship"))
    ran = flowship("verify", "own.flowship")
    assert ran.status == 1
    (line,) = [line for line in ran.out.splitlines() if "fp8" in line]
    assert re.match(rf"FAIL {engine}\S* fp8: the precision 'fp8' has no limits here", line)
    assert "fp32, fp16" in line and "limit inf" not in ran.out
    assert "ok   onnx fp32 encode(decode(z))" in ran.out  # the others are checked


def test_verify_finds_damage(flowship: Terminal, conditional: Path) -> None:
    shutil.copytree(conditional, "damaged.flowship")
    weights = next(Path("damaged.flowship", "onnx").rglob("*.bin"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    ran = flowship("verify", "damaged.flowship")
    assert ran.status == 1
    assert ran.out.startswith("FAIL files: ") and weights.name in ran.out
    assert ran.out.splitlines()[-1].endswith("1 check failed")
    found = flowship("verify", "damaged.flowship", "--json")
    assert (found.status, found.json["passed"]) == (1, False)


def test_export(flowship: Terminal) -> None:
    checkpoint = golden_model(UNCONDITIONAL).checkpoint
    ran = flowship.ok("export", checkpoint, "--licence", "MIT", "--name", "tiny")
    table, size = ran.out.splitlines()[:-1], ran.out.splitlines()[-1]
    assert table[1].split()[:2] == ["onnx", "fp32"]
    assert size.startswith(f"{UNCONDITIONAL}.flowship (")
    assert _files() == [f"{UNCONDITIONAL}.flowship"]
    found = flowship.ok("inspect", f"{UNCONDITIONAL}.flowship", "--json").json
    assert (found["name"], found["source"]["licence"]) == ("tiny", "MIT")
    flowship.ok("verify", f"{UNCONDITIONAL}.flowship")


def test_export_json_and_fp16_note(flowship: Terminal) -> None:
    checkpoint = golden_model(UNCONDITIONAL).checkpoint
    words = ["export", checkpoint, "-o", "x.flowship", "--precision", "fp32,fp16", "--json", "-q"]
    ran = flowship.ok(*words)
    assert ran.err == ""
    assert ran.json["output"] == "x.flowship"
    assert [row["precision"] for row in ran.json["quality"]] == ["fp32", "fp16"]
    assert ran.json["bytes"] == sum(
        entry["bytes"] for entry in json.loads(Path("x.flowship/manifest.json").read_text())
        ["files"].values()
    )  # fmt: skip
    assert any("slower than fp32" in note for note in ran.json["notes"])
    assert "slower than fp32" in flowship.ok("inspect", "x.flowship").out
    flowship.ok("generate", "x.flowship", "--precision", "fp16", "-o", "half.png")
    assert read_recipe(Path("half.png")).precision == "fp16"


# ---- help, version and real processes -----------------------------------------------------------


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(flowship: Terminal, command: str) -> None:
    ran = flowship.ok(*command.split(), "--help")
    assert ran.out.startswith(f"usage: flowship {command}")
    assert "show this help message" in ran.out
    assert ran.err == ""


def test_help_of_all(flowship: Terminal) -> None:
    text = flowship.ok("--help").out
    assert all(name in text and summary in text for name, (_, summary) in COMMANDS.items())


def test_version(flowship: Terminal) -> None:
    assert flowship.ok("--version").out == f"flowship {__version__}\n"


@pytest.mark.parametrize(
    "program",
    [
        [sys.executable, "-m", "flowship.runtime"],
        [str(Path(sysconfig.get_path("scripts"), "flowship"))],
    ],
    ids=["module", "script"],
)
def test_a_real_process(program: list[str], tmp_path: Path) -> None:
    words = ["generate", "--label", "sneaker", "--seed", "7", "-o", "sneaker.png", "--json"]
    ran = subprocess.run(
        [*program, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)["output"] == ["sneaker.png"]  # stdout holds results only
    assert ran.stderr == ""
    assert _pixels(tmp_path / "sneaker.png").shape == (28, 28)


def test_results_and_progress_go_to_their_streams(tmp_path: Path) -> None:
    """Not a terminal: progress is a line every few seconds, all of it on stderr."""
    checkpoint = golden_model(UNCONDITIONAL).checkpoint
    code = (
        "import sys\n"
        "from flowship.runtime import cli, progress\n"
        "def eager(self, *rest, **words):\n"
        "    init(self, *rest, **words)\n"
        "    self._interval = progress.KNOWN_SECONDS = 0.0\n"
        "init, progress.ProgressLine.__init__ = progress.ProgressLine.__init__, eager\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = ["export", str(checkpoint), "-o", "x.flowship", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout)["output"] == "x.flowship"
    assert "% converting block" in ran.stderr
    assert " left" in ran.stderr
