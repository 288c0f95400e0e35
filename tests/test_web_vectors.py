"""The web app's sources agree with Python by its vectors, and what ships is built of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_web_vectors import VECTORS, make

from flowship.runtime import Flow

WEB = Path(__file__).parents[1] / "apps" / "web"


def test_vectors_are_what_python_gives() -> None:
    saved, made = json.loads(VECTORS.read_text("utf-8")), make()
    for old, new in zip(saved.pop("pictures"), made.pop("pictures"), strict=True):
        difference = np.subtract(old.pop("pixels"), new.pop("pixels"))
        assert np.abs(difference).max() <= 1  # other CPUs differ by a rounding
        assert old == new
    assert saved.pop("scores") == pytest.approx(made.pop("scores"), abs=1e-5)
    assert saved == made


def run_npx(*words: object, **variables: object) -> None:
    """Run a tool of apps/web; skip without Node and its packages, but not in CI."""
    if not shutil.which("npx"):
        missing = "Node is not installed"
    elif not (WEB / "node_modules").is_dir():
        missing = "apps/web/node_modules is missing: run npm ci --ignore-scripts in apps/web"
    else:
        command = ["npx", "--no-install", *map(str, words)]
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        done = subprocess.run(
            command, cwd=WEB, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def test_vitest() -> None:
    run_npx("vitest", "run")


def test_real_graphs(tmp_path: Path) -> None:
    """Float16, and products of codes with a float cache and with one of int8."""
    pytest.importorskip("torch")
    from web_bundles import OwnBundle

    OwnBundle().with_precision("fp16").with_precision("int8").write(tmp_path / "own")
    OwnBundle().with_precision("int8", int8_cache=True).write(tmp_path / "int8-cache")
    cases: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("own", "fp16", "gqa", {"guidance": 2.0, "denoise": True}),
        ("own", "int8", "gqa-nbits", {"guidance": 2.0}),
        ("int8-cache", "int8", "gqa-nbits-kv8", {}),
    )
    pictures = []
    for bundle, precision, form, options in cases:
        with Flow.open(tmp_path / bundle, precision=precision, threads=1, plan="default") as flow:
            steps = [a for a in flow.bundle.manifest.artifacts if a.precision == precision]
            assert {step.form for step in steps} == {form, "vjp"}
            pixels = flow.generate(seed=4, label=7, **options).pictures().ravel().tolist()
        picture = {"bundle": bundle, "precision": precision, "form": form}
        pictures.append(picture | {"seed": 4, "label": 7, "options": options, "pixels": pixels})
    (tmp_path / "pictures.json").write_text(json.dumps(pictures))
    run_npx("vitest", "run", "test/graphs.test.ts", FLOWSHIP_WEB_GRAPHS=tmp_path)


def test_types() -> None:
    run_npx("tsc", "--noEmit")


def test_dist_is_built_from_these_sources(tmp_path: Path) -> None:
    """And from this embedded bundle: sw.js names the hash of every file."""
    run_npx("vite", "build", "--outDir", tmp_path / "dist")
    again, there = (folder / "sw.js" for folder in (tmp_path / "dist", WEB / "dist"))
    assert again.read_bytes() == there.read_bytes(), "apps/web/dist is not up to date: make web"
