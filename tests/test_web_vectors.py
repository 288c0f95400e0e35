"""The web app's sources agree with Python by its vectors, and what ships is built of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from make_web_vectors import VECTORS, make

WEB = Path(__file__).parents[1] / "apps" / "web"


def test_vectors_are_what_python_gives() -> None:
    saved, made = json.loads(VECTORS.read_text("utf-8")), make()
    for old, new in zip(saved.pop("pictures"), made.pop("pictures"), strict=True):
        difference = np.subtract(old.pop("pixels"), new.pop("pixels"))
        assert np.abs(difference).max() <= 1  # other CPUs differ by a rounding
        assert old == new
    assert saved.pop("scores") == pytest.approx(made.pop("scores"), abs=1e-5)
    assert saved == made


def run_npx(*words: object) -> None:
    """Run a tool of apps/web; skip without Node and its packages, but not in CI."""
    if not shutil.which("npx"):
        missing = "Node is not installed"
    elif not (WEB / "node_modules").is_dir():
        missing = "apps/web/node_modules is missing: run npm ci --ignore-scripts in apps/web"
    else:
        command = ["npx", "--no-install", *map(str, words)]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def test_vitest() -> None:
    run_npx("vitest", "run")


def test_types() -> None:
    run_npx("tsc", "--noEmit")


def test_dist_is_built_from_these_sources(tmp_path: Path) -> None:
    """And from this embedded bundle: sw.js names the hash of every file."""
    run_npx("vite", "build", "--outDir", tmp_path / "dist")
    again, there = (folder / "sw.js" for folder in (tmp_path / "dist", WEB / "dist"))
    assert again.read_bytes() == there.read_bytes(), "apps/web/dist is not up to date: make web"
