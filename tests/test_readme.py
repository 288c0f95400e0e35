"""The README tells the truth: its Python runs, its commands parse, its links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flowship.runtime.cli import COMMANDS, build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def _commands() -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    shell = "\n".join(text for language, text in blocks if not language)
    lines = [line.split("#")[0].strip() for line in shell.splitlines()]
    inline = re.findall(r"`(flowship [^`]+)`", README)
    return [line for line in [*lines, *inline] if line.startswith("flowship ")]


@pytest.mark.parametrize("command", _commands())
def test_commands_parse(command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "bench" and words[1:2] and words[1] in ("compare", "report", "predict"):
        words = [" ".join(words[:2]), *words[2:]]
    if words == words[:1]:  # only named
        assert words[0] in COMMANDS
        return
    build_parser(words[0]).parse_args(words)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "sneaker.png").stat().st_size > 100


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
