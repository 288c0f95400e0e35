"""Bundles that many tests need, exported once for all workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Terminal
from filelock import FileLock

from flowship.export.families.tarflow import ConfigOverrides
from flowship.export.pipeline import export_checkpoint
from flowship.export.request import ExportRequest
from flowship.export.targets import TargetOptions
from flowship.runtime.progress import ProgressLine

GOLDEN = Path(__file__).parent / "golden"
CONDITIONAL = "tiny_cond_model_4_128_3_2_0.05"
UNCONDITIONAL = "tiny_uncond_model_2_64_2_1_0.10"
VOLUME_PRESERVING = "tiny_vp_model_2_64_3_2_0.08"
GOLDEN_NAMES = (CONDITIONAL, UNCONDITIONAL, VOLUME_PRESERVING)
TRAINED = Path(__file__).parents[1] / "apps" / "demo" / "fmnist_model_4_128_4_4_0.10.pth"


@dataclass(frozen=True)
class GoldenModel:
    """A checkpoint with what the reference implementation computes with it."""

    name: str
    checkpoint: Path
    arrays: dict[str, npt.NDArray[Any]]
    labels: list[int] | None


def golden_model(name: str) -> GoldenModel:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as archive:
        arrays = dict(archive)
    labels = facts["labels"] if facts["config"]["num_classes"] else None
    return GoldenModel(name, GOLDEN / f"{name}.pth", arrays, labels)


@pytest.fixture(params=GOLDEN_NAMES)
def golden(request: pytest.FixtureRequest) -> GoldenModel:
    return golden_model(request.param)


@pytest.fixture
def flowship(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    """The command line, in an empty folder and with no plans saved by this machine's user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Terminal(capsys)


Exporter = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exporter:
    """export(checkpoint, targets, precisions=()) -> bundle folder; each is made once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "bundles"
    folder.mkdir(exist_ok=True)

    def export(
        checkpoint: Path,
        targets: tuple[str, ...] = ("onnx",),
        precisions: tuple[str, ...] = (),
        overrides: ConfigOverrides = ConfigOverrides(),  # noqa: B008 (frozen)
        **options: Any,
    ) -> Path:
        words = [checkpoint.stem, *targets, *precisions, *map(str, options.values())]
        path = folder / ("-".join(words).replace(" ", "") + ".flowship")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                request = ExportRequest(targets, precisions, overrides, TargetOptions(**options))
                export_checkpoint(checkpoint, path, request, ProgressLine(enabled=False))
        return path

    return export
