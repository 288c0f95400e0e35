"""Wrong options of ``flowship export`` are found before torch loads, and before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Terminal
from conftest import CONDITIONAL, UNCONDITIONAL, golden_model

from flowship.export import pipeline
from flowship.export.checkpoint import Checkpoint
from flowship.export.mixture import check_size, float_bytes_of, mixture_formats
from flowship.export.options import FLOATS, PRECISIONS, WITH_DENOISE, TargetOptions
from flowship.export.quantize import search
from flowship.export.quantize.allocation import Frontier
from flowship.export.quantize.layers import matrix_names
from flowship.export.quantize.sensitivity import Sensitivity
from flowship.export.synthetic import PRESETS, write_checkpoint
from flowship.export.targets import TARGETS
from flowship.runtime.errors import UsageError
from flowship.runtime.labels import read_label_names

TINY = golden_model(UNCONDITIONAL).checkpoint

# Runs each command line of a JSON list in one process that has neither torch nor an exporter.
WITHOUT_TORCH = """
import contextlib, io, json, sys
for name in ("torch", "onnx", "coremltools", "executorch", "onnxruntime"):
    sys.modules[name] = None
from flowship.runtime.cli import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["export", *words])
        except SystemExit as error:
            status = error.code
    found.append([status, out.getvalue(), err.getvalue()])
json.dump(found, sys.stdout)
"""
WRONG = {  # options: status, and what the message says
    "-o .": (2, "-o '.' names no bundle"),
    "-o /": (2, "-o '/' names no bundle"),
    "-o EMPTY": (2, "-o '' names no bundle"),
    "-o ..": (2, "-o '..' names no bundle"),
    "-o taken/..": (2, "names no bundle"),
    "-o file": (2, "is a file: choose another name"),
    "-o taken": (2, "is a folder with other things in it"),
    "-o no/where": (2, "does not exist"),
    "-o a\xff": (2, ""),
    "--targets tflite": (2, "unknown target 'tflite': choose from onnx, executorch, coreml"),
    "--targets ,": (2, "no target to export to"),
    "--precision fp99": (2, "unknown precision 'fp99': choose from fp32"),
    "--targets coreml --precision fp32": (2, "coreml has no precision fp32"),
    "--precision pal4": (2, "onnx has no precision pal4"),
    "--precision mixed": (2, "say --max-bpd-increase 0.005 or --max-size 200MB"),
    "--max-size 10": (2, "'10' is 10 bytes, less than any model takes"),
    "--max-size 0": (2, "'0' is not a size"),
    "--max-size -5MB": (2, "--max-size"),
    "--max-size much": (2, "'much' is not a size, as in 200MB"),
    f"--max-size {'9' * 400}": (2, "is not a size"),
    "--max-size 1MB --precision int8": (2, "--max-size is for the precision mixed"),
    "--max-size 1MB --max-bpd-increase 1": (2, "say either the largest increase"),
    "--max-bpd-increase nan": (2, "the limit of bits/dim is nan"),
    "--max-bpd-increase -1": (2, "the limit of bits/dim is -1.0, expected 0 or more"),
    "--max-bpd-increase 1 --precision fp32": (2, "limits quantized precisions, and none"),
    "--windows 0 --targets coreml": (2, "--windows '0' is not a list of lengths"),
    "--windows a --targets coreml": (2, "--windows 'a' is not a list of lengths"),
    "--noise-std loud": (2, "neither a number nor 'uniform'"),
    "--noise-std nan": (2, "expected more than 0 and less than 10"),
    "--head-dim 0": (2, "head_dim is 0"),
    "--in-channels x": (2, "--in-channels"),
    "--label-names nowhere.txt": (2, "--label-names nowhere.txt does not exist"),
    "--label-names EMPTY": (2, "the name is empty"),
    "--data nowhere.npz": (2, "--data nowhere.npz does not exist"),
    "--name a/b": (2, "'a/b' cannot be part of a file name"),
    "--name EMPTY": (2, "cannot be part of a file name"),
    "--licence EMPTY": (2, "--licence '' is empty"),
    "--weights EMPTY": (2, "--weights '' is empty"),
    "--plot x.svg": (2, "--plot draws the search"),
    "--plot x.png --max-size 1MB": (2, "name a file that ends in .svg"),
    "--plot no/x.svg --max-size 1MB": (2, "does not exist"),
    "--plot b/x.svg -o b --max-size 1MB": (2, "lies in the bundle"),
    # together with others they would change nothing
    "--executorch-static": (2, "--executorch-static is for the target executorch"),
    "--onnx-form core --targets coreml": (2, "--onnx-form is for the target onnx"),
    "--onnx-kv-cache float --targets coreml": (2, "--onnx-kv-cache is for the target onnx"),
    "--onnx-kv-cache int8": (2, "is for quantized precisions of onnx"),
    "--onnx-kv-cache int8 --precision int8 --onnx-form core": (2, "has a float KV cache"),
    "--coreml-compute-units all": (2, "--coreml-compute-units is for the target coreml"),
    "--windows 1,8": (2, "--windows is for static graphs"),
    "--no-denoise --targets coreml": (2, "--no-denoise is for targets with denoising graphs"),
    "--no-denoise --targets executorch --precision int8": (2, "--no-denoise is for targets"),
    "--quantize-method rtn": (2, "--quantize-method is for quantized precisions"),
}


def test_wrong_options_are_found_without_torch(tmp_path: Path) -> None:
    (tmp_path / "taken" / "thesis").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "b").mkdir()
    lines = [
        [str(TINY), *(os.fsdecode(w.encode("latin-1")) for w in words.split())] for words in WRONG
    ]
    lines = [["" if word == "EMPTY" else word for word in words] for words in lines]
    # A checkpoint that is not there, and a right command line: it needs torch.
    lines += [["nothing.pth"], ["", "-o", "x"], [str(TINY), "-o", "x.flowship"]]
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(lines)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = [
        *WRONG.values(),
        (1, "nothing.pth does not exist"),
        (2, "the name is empty"),
        (1, "needs the package torch, which is not installed"),
    ]
    found = json.loads(ran.stdout)
    for words, (status, message), (code, out, err) in zip(lines, expected, found, strict=True):
        assert (code, out) == (status, ""), (words, err)
        assert message in err and err.count("\n") == 1, (words, err)
    assert sorted(os.listdir(tmp_path)) == ["b", "file", "taken"]


def test_options_that_need_the_checkpoint_are_found_before_the_work(
    flowship: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "read_pictures", None)  # the first that takes time
    config = replace(PRESETS["tarflow-tiny"].config, channels=60, head_dim=60)
    narrow = write_checkpoint(tmp_path, "narrow", config)
    for words, message in (
        ([TINY, "--max-size", "20kB"], "the smallest mixture for onnx takes 88.3 kB, and its"),
        ([TINY, "--max-size", "20kB", "--targets", "coreml"], "the smallest mixture for coreml"),
        ([TINY, "--precision", "int8", "--onnx-kv-cache", "int8"], "512 channels and more"),
        ([narrow, "--head-dim", "60"], "takes heads of multiples of 8"),
        (
            [narrow, "--head-dim", "60", "--targets", "executorch", "--precision", "int4"],
            "60 channels as int4_g32, they are not a multiple of 32",
        ),
    ):
        assert message in flowship.refused("export", *words, "-o", "x.flowship", "-q")


@pytest.mark.parametrize("engine", TARGETS)
def test_the_least_size_is_that_of_the_search(engine: str) -> None:
    """The bound is exact, so that nothing possible is refused."""
    checkpoint, target, options = Checkpoint.open(TINY), TARGETS[engine], TargetOptions()
    config, float_bytes = checkpoint.config, float_bytes_of(target)
    places = [
        Sensitivity(block, matrix, name, 0.0, 0.0)
        for block in range(config.num_blocks)
        for matrix in matrix_names(config.layers_per_block)
        for name in mixture_formats(target, options, config.channels)
    ]
    _, choices = search._options(checkpoint, places, float_bytes)
    matrices = sum(own[0].nbytes for own in choices) // float_bytes
    rest = config.num_parameters - matrices
    least = Frontier(choices).least_bytes + float_bytes * rest
    check_size([target], config, options, least)
    with pytest.raises(UsageError, match=f"the smallest mixture for {engine} takes"):
        check_size([target], config, options, least - 1)


def test_what_is_known_of_targets_is_what_they_are() -> None:
    assert {name: target.precisions for name, target in TARGETS.items()} == PRECISIONS
    for name, target in TARGETS.items():
        assert set(PRECISIONS[name]) - set(FLOATS) == set(target.formats)
        assert set(WITH_DENOISE[name]) <= set(PRECISIONS[name])


# ---- class names ---------------------------------------------------------------------------------

NAMES = "cat\ndog\nIce bear\nübel\nmaus\n"


@pytest.mark.parametrize(
    "data",
    [
        NAMES.encode(),
        NAMES.encode("utf-8-sig"),
        NAMES.replace("\n", "\r\n").encode("utf-8-sig"),
        NAMES.replace("\n", "\r").encode(),
        NAMES.strip().encode(),
        (NAMES + "\n  \r\n\t\n").encode(),
        NAMES.replace("cat", "  cat\t").encode(),
    ],
    ids=["plain", "mark", "CRLF", "CR", "no last line end", "empty lines", "blanks"],
)
def test_label_names(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    assert read_label_names(tmp_path / "names.txt") == ("cat", "dog", "Ice bear", "übel", "maus")


def test_two_classes_may_share_a_name(tmp_path: Path) -> None:
    """As the two cranes of ImageNet's lists do."""
    (tmp_path / "names.txt").write_bytes(b"crane\nmaillot\ncrane\n")
    assert read_label_names(tmp_path / "names.txt") == ("crane", "maillot", "crane")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (NAMES.encode("utf-16"), "is text in UTF-16: save it as UTF-8"),
        (NAMES.encode("utf-16-le"), "is text in UTF-16: save it as UTF-8"),
        (NAMES.encode("utf-32"), "is text in UTF-32: save it as UTF-8"),
        (NAMES.encode("latin-1"), "is not text in UTF-8 (byte 0xfc in line 4): save it as UTF-8"),
        (b"cat\0\ndog\n", r"line 1: 'cat\x00' is not printable"),
        (b"cat\n\ndog\n", "line 2: empty, expected the name of class 1"),
        (b"cat\n\x1b[2J\n", r"line 2: '\x1b[2J' is not printable"),
        (b"", "holds no names"),
        (b"\xef\xbb\xbf\r\n", "holds no names"),
        (b"x" * 1_100_000, "more than 1,048,576 bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a PNG picture, not text"),
    ],
)
def test_label_names_that_are_refused(
    flowship: Terminal, tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    words = ["--label-names", tmp_path / "names.txt", "-o", "x.flowship"]
    assert message in flowship.refused("export", golden_model(CONDITIONAL).checkpoint, *words)
    assert "is a folder: name a file" in flowship.refused("export", TINY, "--label-names", tmp_path)


def test_a_name_of_a_file_with_a_mark_can_be_asked_for(flowship: Terminal, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("cat\r\ndog\r\na\r\nb\r\nc\r\n".encode("utf-8-sig"))
    words = ["--label-names", tmp_path / "names.txt", "-o", "x.flowship", "-q"]
    flowship.ok("export", golden_model(CONDITIONAL).checkpoint, *words)
    assert flowship.ok("inspect", "x.flowship", "--json").json["classes"][0] == "cat"
    flowship.ok("generate", "x.flowship", "--label", "cat", "-q", "-o", "x.png")


def test_a_checkpoint_of_any_name_is_exported(flowship: Terminal, tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and characters that no bundle's name may have."""
    if os.name == "nt":
        pytest.skip("such names are not possible there")
    for name, bundle in ((b"caf\xe9", "caf_xe9"), (b"run 1: a?", "run 1_ a_")):
        path = tmp_path / os.fsdecode(name + TINY.name[len("tiny_uncond") :].encode())
        path.write_bytes(TINY.read_bytes())
        found = flowship.ok("export", path, "--json", "-q").json
        assert found["output"] == f"{bundle}_model_2_64_2_1_0.10.flowship"
        inspected = flowship.ok("inspect", found["output"], "--json").json
        assert inspected["name"] == f"{bundle}_model_2_64_2_1_0.10"
