"""Words, numbers and choices that no command takes: one line each, and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from command_line import Terminal, nothing_written
from conftest import UNCONDITIONAL, Exporter, golden_model

from flowship.runtime import Flow, FlowshipError
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.plan import Plan, PlanFile

TINY = golden_model(UNCONDITIONAL).checkpoint


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
    nothing_written()


def test_a_plan_of_another_bundle(flowship: Terminal) -> None:
    plan = Path("own.json")
    plan.write_text(PlanFile(plan=Plan({"block0": 8, "block17": 2})).dumps())
    line = flowship.refused("generate", "--plan", plan, "-o", "x.png")
    assert "the plan names block17, but the bundle has block3, block2, block1, block0" in line
    plan.write_text('{"plan": {"windows": {"block0": "many"}}}')
    line = flowship.refused("generate", "--plan", plan, "-o", "x.png", status=1)
    assert "own.json" in line and "windows" in line
    nothing_written("own.json")


def test_a_device_names_its_extra(flowship: Terminal) -> None:
    line = flowship("generate", "--device", "cuda", "-o", "x.png")
    assert line.status in (1, 2)
    assert "flowship[onnx-gpu]" in line.err and "cuda" in line.err
    nothing_written()


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


def test_an_error_of_several_lines_is_one_line(
    flowship: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FlowshipError("first\n  second\n\nthird\n")

    monkeypatch.setattr(Flow, "open", fail)
    assert flowship.refused("generate", status=1) == "flowship generate: first second third\n"
