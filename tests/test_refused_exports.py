"""What flowship export refuses: one line each, and nothing is written."""

from __future__ import annotations

import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Terminal, nothing_written
from conftest import CONDITIONAL, UNCONDITIONAL, golden_model

from flowship.export import parity

TINY = golden_model(UNCONDITIONAL).checkpoint


def _state() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(TINY, weights_only=True)
    return found


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
        nothing_written()
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
    nothing_written()


def test_class_names_must_fit(flowship: Terminal) -> None:
    Path("names.txt").write_text("cat\ndog\n")
    words = ["--label-names", "names.txt", "-o", "x.flowship"]
    checkpoint = golden_model(CONDITIONAL).checkpoint
    line = flowship.refused("export", checkpoint, *words, status=1)
    assert "2 label names for 5 classes" in line
    nothing_written("names.txt")


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
    nothing_written("thesis")


def test_parity_failure(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that misses its threshold: said by how much, and nothing is left."""
    monkeypatch.setitem(parity.BLOCK_LIMITS, "fp32", parity.BlockLimit(1e-12, 1e-4))
    line = flowship.refused("export", TINY, "-q", "-o", "x.flowship", status=1)
    words = r"onnx fp32, block\d: relative error \d\S*e-\d+ .* threshold is 1e-12"
    assert re.search(words, line), line
    nothing_written()


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
    nothing_written()


def test_export_without_its_packages(flowship: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("flowship.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    for words in (["export", TINY, "-o", "x.flowship"], ["inspect", TINY]):
        line = flowship.refused(*words, status=1)
        assert "pip install 'flowship[export]'" in line
    nothing_written()
