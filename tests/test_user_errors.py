"""Every mistake gets one line that says what is wrong, exit status 2 or 1, and writes nothing."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Terminal
from conftest import CONDITIONAL, UNCONDITIONAL, Exporter, golden_model
from PIL import Image

from flowship.export import parity
from flowship.runtime import Flow, FlowshipError
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.plan import Plan, PlanFile

TINY = golden_model(UNCONDITIONAL).checkpoint
FULL = Path("/dev/full")  # a device that is always full


def _nothing_written(*allowed: str) -> None:
    assert sorted(os.listdir()) == sorted(allowed)


def _state() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(TINY, weights_only=True)
    return found


# ---- words that no command knows ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("paint", "there is no command 'paint': did you mean plan?"),
        ("qwxz", "there is no command 'qwxz' (see flowship --help)"),
        ("Generate -n 2", "did you mean generate?"),
        ("bench comapre a b", "there is no bench 'comapre': did you mean compare?"),
        ("--json generate", "flowship: --json is no option of flowship itself"),
        ("generate --sed 7", "unknown arguments: --sed (see flowship generate --help)"),
        ("generate --guidance much", "argument --guidance: invalid float value: 'much'"),
        ("generate --guide-what c", "invalid choice: 'c'"),
        ("generate -n many", "argument -n/--num-images: invalid int value: 'many'"),
        ("decode embedded", "the following arguments are required: LATENTS.npy, -o"),
        ("interpolate", "one of the arguments --seeds --images is required"),
    ],
)
def test_words(flowship: Terminal, words: str, message: str) -> None:
    line = flowship.refused(*words.split())
    assert message in line
    assert re.search(r"\(see flowship.* --help\)\n$", line)


# ---- seeds, labels, numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed seven", "'seven' is not a number, a range or a list, as in 7, 0-15 or 1,4,9"),
        ("--seed 1,,2", "'1,,2' is not a number"),
        ("--seed=-1", "'-1' is not a number"),
        ("--seed 9-3", "9-3: not a range"),
        ("--seed 0-99999999", "not a range of 1 to 100000 seeds"),
        ("--seed 18446744073709551616", "seed 18446744073709551616"),
        ("--seed 1,2 -n 3", "-n 3 contradicts the 2 seeds of --seed 1,2"),
        ("-n 0", "-n 0 is not between 1 and 100000"),
        ("--columns 0", "--columns 0 is below 1"),
        ("--label snekaer", "no class 'snekaer': did you mean 'sneaker'?"),
        ("--label submarine", "no class 'submarine': it has t-shirt, trouser"),
        ("--label 10", "there is no class 10: this model has the classes 0 to 9"),
        ("--label bag,coat -n 3", "2 labels for 3 pictures"),
        ("--guidance=-1", "guidance"),
        ("--guidance nan", "guidance"),
        ("--attn-temp 0", "attn_temp"),
        ("--threads 0", "'0' is not a number of threads, 1 to 256"),
        ("--engine tensorrt", "unknown engine 'tensorrt': choose from onnx, executorch, coreml"),
        ("--engine executorch", "has nothing for the engine executorch: it has onnx"),
        ("--precision int4", "no precision 'int4' for onnx: choose from fp32"),
        ("--device toaster", "no device 'toaster': choose from cpu, cuda"),
        ("--noise nowhere.npy", "nowhere.npy"),
        ("--like nowhere.png", "nowhere.png"),
        ("--like a.png --seed 3 --label 2", "leave out --seed, --label"),
        ("--plan nowhere.json", "'nowhere.json' does not exist: expected saved"),
        ("--threads 257", "'257' is not a number of threads, 1 to 256"),
    ],
)
def test_choices(flowship: Terminal, words: str, message: str) -> None:
    assert message in flowship.refused("generate", *words.split(), "-o", "x.png")
    _nothing_written()


def test_a_plan_of_another_bundle(flowship: Terminal) -> None:
    plan = Path("own.json")
    plan.write_text(PlanFile(plan=Plan({"block0": 8, "block17": 2})).dumps())
    line = flowship.refused("generate", "--plan", plan, "-o", "x.png")
    assert "the plan names block17, but the bundle has block3, block2, block1, block0" in line
    plan.write_text('{"plan": {"windows": {"block0": "many"}}}')
    line = flowship.refused("generate", "--plan", plan, "-o", "x.png", status=1)
    assert "own.json" in line and "windows" in line
    _nothing_written("own.json")


def test_a_device_names_its_extra(flowship: Terminal) -> None:
    line = flowship("generate", "--device", "cuda", "-o", "x.png")
    assert line.status in (1, 2)
    assert "flowship[onnx-gpu]" in line.err and "cuda" in line.err
    _nothing_written()


@pytest.mark.parametrize(
    ("package", "extra", "engine"),
    [("onnxruntime", "onnx", "onnx"), ("executorch", "executorch", "executorch")],
)
def test_a_missing_package_names_its_extra(
    flowship: Terminal,
    exported: Exporter,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    engine: str,
) -> None:
    bundle = EMBEDDED if engine == "onnx" else Path("fake.flowship")
    if engine != "onnx":
        _claim_engine(exported(TINY), bundle, engine)
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    line = flowship.refused("generate", bundle, "--engine", engine, "-o", "x.png", status=1)
    assert f"pip install 'flowship[{extra}]'" in line
    assert not Path("x.png").exists()


def _claim_engine(source: Path, target: Path, engine: str) -> None:
    """A copy of a bundle that says its graphs are another engine's."""
    shutil.copytree(source, target)
    manifest = json.loads((target / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        artifact["engine"] = engine
    manifest["golden"]["pictures"] = []
    (target / "manifest.json").write_text(json.dumps(manifest))


def test_verify_with_an_engine_that_is_not_there(flowship: Terminal) -> None:
    assert "unknown engine 'tpu'" in flowship.refused("verify", "--engine", "tpu")
    assert "nothing for the engine coreml" in flowship.refused("verify", "--engine", "coreml")


# ---- files that come in -------------------------------------------------------------------------


def _write_text(path: Path) -> None:
    path.write_text("hello")


def _write_other_shape(path: Path) -> None:
    np.save(path, np.zeros((1, 3, 5), np.float32))


def _write_nan(path: Path) -> None:
    np.save(path, np.full((1, 49, 16), np.nan, np.float32))


def _write_integers(path: Path) -> None:
    np.save(path, np.zeros((1, 49, 16), np.int64))


def _write_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_write_text, "cannot be read as .npy"),
        (_write_other_shape, "has the shape [1, 3, 5], expected [N, 49, 16]"),
        (_write_nan, "holds NaN or infinity"),
        (_write_integers, "holds int64, expected float32"),
        (_write_pickle, "cannot be read as .npy"),
    ],
)
def test_latents(flowship: Terminal, write: Callable[[Path], None], message: str) -> None:
    write(Path("in.npy"))
    line = flowship.refused("decode", "embedded", "in.npy", "-o", "out.npy")
    assert message in line and "in.npy" in line
    _nothing_written("in.npy")


@pytest.mark.parametrize("command", ["score", "encode"])
def test_pictures(flowship: Terminal, command: str) -> None:
    output = ["-o", "out.npy"] if command == "encode" else []
    Path("fake.png").write_text("hello")
    Path("notes.txt").write_text("hello")
    Path("empty").mkdir()
    for name, message in (
        ("fake.png", "fake.png cannot be read as a picture"),
        ("notes.txt", "notes.txt is no picture by its name"),
        ("nowhere.png", "nowhere.png does not exist"),
        ("nowhere", "nowhere does not exist"),
        ("empty", "the folder empty has no pictures"),
    ):
        assert message in flowship.refused(command, "embedded", name, *output)
    _nothing_written("fake.png", "notes.txt", "empty")


def test_a_picture_without_recipe(flowship: Terminal) -> None:
    Image.new("L", (28, 28)).save("plain.png")
    line = flowship.refused("generate", "--like", "plain.png", "-o", "x.png")
    assert "plain.png" in line
    _nothing_written("plain.png")


def test_a_picture_of_another_bundle(flowship: Terminal, exported: Exporter) -> None:
    flowship.ok("generate", exported(TINY), "-o", "other.png")
    line = flowship.refused("generate", "--like", "other.png", "-o", "x.png")
    assert f"was made with the bundle {UNCONDITIONAL}" in line
    _nothing_written("other.png")


def test_denoise_needs_gaussian_noise(flowship: Terminal) -> None:
    words = ("--noise-std", "uniform", "-o", "u.flowship", "-q")
    flowship.ok("export", TINY, *words)
    line = flowship.refused("generate", "u.flowship", "--denoise", "-o", "x.png")
    assert "cannot denoise: its training noise is uniform" in line
    flowship.ok("export", TINY, "--no-denoise", "-o", "n.flowship", "-q")
    line = flowship.refused("generate", "n.flowship", "--denoise", "-o", "x.png", status=1)
    assert "denois" in line
    _nothing_written("n.flowship", "u.flowship")


# ---- places for results -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "generate -o {}",
        "generate -o ok.png --save-latent {}",
        "interpolate --seeds 1,2 -o {}",
        "decode embedded in.npy -o {}",
        "encode embedded in.png -o {}",
    ],
)
def test_outputs_are_checked_before_the_work(
    flowship: Terminal, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_flow(*_: object, **__: object) -> None:
        raise AssertionError("the work must not begin")

    monkeypatch.setattr(Flow, "open", open_flow)
    Path("folder").mkdir()
    assert "does not exist" in flowship.refused(*words.format("no/where.png").split())
    assert "folder is a folder: name a file" in flowship.refused(*words.format("folder").split())
    _nothing_written("folder")


def test_separate_wants_a_folder(flowship: Terminal) -> None:
    Path("taken").touch()
    for name in ("x.png", "taken"):
        line = flowship.refused("generate", "--separate", "-o", name)
        assert f"-o {name} is a file name, --separate wants a folder" in line
    _nothing_written("taken")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", ["-o /dev/full", "-o x.png --save-latent /dev/full"])
def test_disk_full(flowship: Terminal, words: str) -> None:
    line = flowship.refused("generate", "-q", *words.split(), status=1)
    assert "No space left on device" in line


def test_an_error_of_the_system_in_the_middle_leaves_nothing(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    line = flowship.refused("generate", "-q", "-o", "x.png", status=1)
    assert line == "flowship generate: x.png: No space left on device\n"
    flowship.refused("export", TINY, "-q", "-o", "x.flowship", status=1)
    _nothing_written()


# ---- export -------------------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def _bad_checkpoints(folder: Path) -> dict[str, tuple[str, str]]:
    """file name -> what its refusal says, and the files written."""
    state = _state()
    weight = "blocks.0.attn_blocks.0.attention.qkv.weight"
    name = TINY.name
    cases: dict[str, tuple[str, str]] = {}

    def add(case: str, content: object, message: str) -> None:
        (folder / case).mkdir()
        path = folder / case / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        cases[case] = str(path), message

    data = TINY.read_bytes()
    add(
        "other",
        {"conv.weight": torch.zeros(3, 3)},
        "not a checkpoint of a supported family (tarflow), it holds conv.weight",
    )
    add("text", b"not a checkpoint", "")
    add("empty", b"", "")
    add("truncated", data[: len(data) // 2], "")
    add("nan", state | {weight: torch.full_like(state[weight], torch.nan)}, "NaN")
    add("shape", state | {weight: state[weight][:-1]}, weight)
    add("missing", {k: v for k, v in state.items() if k != weight}, weight)
    add("code", _Bomb(), "")
    (folder / "pickle").mkdir()
    (folder / "pickle" / name).write_bytes(pickle.dumps(_Bomb()))
    cases["pickle"] = str(folder / "pickle" / name), ""
    cases["absent"] = str(folder / "absent.pth"), "absent.pth"
    cases["folder"] = str(folder / "code"), ""
    return cases


def test_bad_checkpoints(flowship: Terminal, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for case, (path, message) in _bad_checkpoints(tmp_path / "bad").items():
        line = flowship.refused("export", path, "-o", "x.flowship", status=1)
        assert message in line, case
        assert Path(path).name in line, case
        _nothing_written()
    flowship.refused("inspect", tmp_path / "bad" / "truncated" / TINY.name, status=1)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("--targets coreml --precision fp32", 2, "coreml has no precision fp32: coreml has fp16"),
        ("--targets tflite", 2, "unknown target 'tflite': choose from onnx, executorch, coreml"),
        ("--targets ,", 2, "no target to export to"),
        ("--precision fp99", 2, "fp99"),
        ("--windows 0", 2, "--windows '0' is not a list of lengths, as in 1,8,32"),
        ("--noise-std loud", 2, "--noise-std 'loud' is neither a number nor 'uniform'"),
        ("--noise-std=-1", 2, "noise_std is -1.0, expected more than 0 and less than 10"),
        ("--head-dim 48", 1, "64 channels are not a multiple of head_dim 48"),
        ("--in-channels 5", 1, "5"),
        ("--label-names nowhere.txt", 2, "--label-names nowhere.txt does not exist"),
        ("--data nowhere.npz", 2, "--data nowhere.npz does not exist"),
    ],
)
def test_export_choices(flowship: Terminal, words: str, status: int, message: str) -> None:
    line = flowship.refused("export", TINY, "-q", "-o", "x.flowship", *words.split(), status=status)
    assert message in line
    _nothing_written()


def test_class_names_must_fit(flowship: Terminal) -> None:
    Path("names.txt").write_text("cat\ndog\n")
    words = ["--label-names", "names.txt", "-o", "x.flowship"]
    checkpoint = golden_model(CONDITIONAL).checkpoint
    line = flowship.refused("export", checkpoint, *words, status=1)
    assert "2 label names for 5 classes" in line
    _nothing_written("names.txt")


def test_a_precision_that_one_target_lacks_is_a_note(flowship: Terminal) -> None:
    words = ("--targets", "onnx,coreml", "--precision", "fp32,fp16", "-o", "x.flowship")
    ran = flowship.ok("export", TINY, *words, "--json")
    assert "coreml: no fp32, exporting fp16" in ran.err
    made = [(row["engine"], row["precision"]) for row in ran.json["quality"]]
    assert made == [("onnx", "fp32"), ("onnx", "fp16"), ("coreml", "fp16")]


def test_export_over_something_else(flowship: Terminal) -> None:
    Path("thesis").mkdir()
    Path("thesis", "only-copy.txt").touch()
    line = flowship.refused("export", TINY, "-o", "thesis")
    assert "is a folder with other things in it: choose another name" in line
    line = flowship.refused("export", TINY, "-o", "no/where.flowship")
    assert "does not exist" in line
    _nothing_written("thesis")


def test_parity_failure(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that misses its threshold: said by how much, and nothing is left."""
    monkeypatch.setitem(parity.BLOCK_LIMITS, "fp32", parity.BlockLimit(1e-12, 1e-4))
    line = flowship.refused("export", TINY, "-q", "-o", "x.flowship", status=1)
    words = r"onnx fp32, block\d: relative error \d\S*e-\d+ .* threshold is 1e-12"
    assert re.search(words, line), line
    _nothing_written()


def test_wrong_weights_are_found(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs made of slightly other weights than the checkpoint's."""
    from flowship.export.checkpoint import Checkpoint

    right = Checkpoint.block

    def wrong(self: Checkpoint, block: int) -> Any:
        weights = right(self, block)
        changed = {n: a * np.float32(1.01) for n, a in weights.network.items() if "proj_out" in n}
        assert changed
        return replace(weights, network={**weights.network, **changed})

    from flowship.export.reference import ReferenceBlock

    made = ReferenceBlock.__init__

    def from_the_file(self: ReferenceBlock, *rest: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "block", right)
            made(self, *rest)

    monkeypatch.setattr(Checkpoint, "block", wrong)
    monkeypatch.setattr(ReferenceBlock, "__init__", from_the_file)
    line = flowship.refused("export", TINY, "-q", "-o", "x.flowship", status=1)
    assert "onnx fp32" in line
    _nothing_written()


def test_export_without_its_packages(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("flowship.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    for words in (["export", TINY, "-o", "x.flowship"], ["inspect", TINY]):
        line = flowship.refused(*words, status=1)
        assert "pip install 'flowship[export]'" in line
    _nothing_written()


# ---- bundles from strangers ---------------------------------------------------------------------


def _edit(name: str, change: Callable[[Any], object]) -> None:
    path = Path(name, "manifest.json")
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _escape(manifest: Any) -> None:
    manifest["arrays"]["var"]["path"] = "../../etc/passwd"
    manifest["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "0" * 64}


def _grow(manifest: Any) -> None:
    manifest["spec"]["image"]["img_size"] = 1 << 40


def _newer(manifest: Any) -> None:
    manifest["schema_version"] = 99


def _wrong_hash(manifest: Any) -> None:
    name = manifest["arrays"]["var"]["path"]
    manifest["files"][name]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [(_escape, ".."), (_grow, ""), (_newer, "99"), (_wrong_hash, "expected 00000000")],
)
def test_hostile_bundles(
    flowship: Terminal, exported: Exporter, change: Callable[[Any], object], message: str
) -> None:
    shutil.copytree(exported(TINY), "x.flowship")
    _edit("x.flowship", change)
    line = flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    assert "x.flowship" in line and message in line
    assert flowship("verify", "x.flowship").status == 1
    _nothing_written("x.flowship")


def test_incomplete_bundles(flowship: Terminal, exported: Exporter, tmp_path: Path) -> None:
    shutil.copytree(exported(TINY), "x.flowship")
    weights = next(Path("x.flowship").rglob("*.bin"))
    kept = weights.read_bytes()
    weights.unlink()
    assert weights.name in flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    weights.symlink_to(tmp_path / "elsewhere")  # which is not there
    line = flowship.refused("generate", "x.flowship", "-o", "x.png", status=1)
    assert weights.name in line and "link" in line
    weights.unlink()
    weights.write_bytes(kept[:-1])
    assert weights.name in flowship.refused("verify", "x.flowship", status=1)
    Path("x.flowship", "manifest.json").unlink()
    line = flowship.refused("inspect", "x.flowship", status=1)
    assert "there is no manifest.json: not a bundle" in line
    _nothing_written("x.flowship")


@pytest.mark.parametrize("command", ["generate", "verify", "inspect"])
def test_no_bundle(flowship: Terminal, command: str) -> None:
    line = flowship.refused(command, "nowhere.flowship", status=1)
    assert "nowhere.flowship does not exist: expected a bundle, such as NAME.flowship" in line
    Path("a.flowship").write_text("hello")
    assert "neither a folder nor a zip" in flowship.refused(command, "a.flowship", status=1)


# ---- interruptions ------------------------------------------------------------------------------


def test_an_error_of_several_lines_is_one_line(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FlowshipError("first\n  second\n\nthird\n")

    monkeypatch.setattr(Flow, "open", fail)
    assert flowship.refused("generate", status=1) == "flowship generate: first second third\n"
