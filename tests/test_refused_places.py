"""Places where no result can be written: one line each, and nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Terminal, nothing_written
from conftest import UNCONDITIONAL, golden_model

from flowship.runtime import Flow

TINY = golden_model(UNCONDITIONAL).checkpoint
FULL = Path("/dev/full")  # a device that is always full


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
    nothing_written("folder")


def test_separate_wants_a_folder(flowship: Terminal) -> None:
    Path("taken").touch()
    for name in ("x.png", "taken"):
        line = flowship.refused("generate", "--separate", "-o", name)
        assert f"-o {name} is a file name, --separate wants a folder" in line
    nothing_written("taken")


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
    nothing_written()
