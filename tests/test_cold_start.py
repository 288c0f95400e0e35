"""What a first picture waits for before it begins: the modules that it needs, and no garbage
collector that looks through them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GENERATE = """
import gc, sys
from flowship.runtime import program, cli

told = []
def loaded():
    told.append("flowship.runtime.flow" in sys.modules)
    gc.enable()

gc.disable()
sys.argv = ["flowship", "generate", "-q", "-o", "x.png"]
status = program.run(loaded)
others = ["flowship.runtime.trust", "zipfile", "numpy.ma", "difflib", "PIL.features", "tempfile"]
sys.exit(repr((status, told, [name for name in others if name in sys.modules])))
"""


def test_a_first_picture_loads_what_it_needs_and_then_has_its_garbage_collected(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", GENERATE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.stderr.strip() == repr((0, [True], []))


def test_the_launcher_turns_the_collector_on_again(tmp_path: Path) -> None:
    code = (
        "import gc, sys; from flowship.apps.launcher import main; main(); sys.exit(gc.isenabled())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "devices"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 1, ran.stderr
