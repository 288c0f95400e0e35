"""The bundle that convergence is measured with: float32 ONNX graphs that take any window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..runtime.bundle import Bundle
from ..runtime.hashing import sha256_of
from ..runtime.manifest import FileEntry
from .checkpoint import Checkpoint
from .options import TargetOptions
from .targets.onnx import OnnxTarget

PROFILE_PRECISION = "fp32"


@contextmanager
def profiling_bundle(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[Bundle]:
    """The bundle itself where it has such graphs, else one that has them and is gone afterwards."""
    first = bundle.spec.ar_blocks[0]
    steps = bundle.manifest.find("onnx", PROFILE_PRECISION, "step", first.name)
    if steps and not steps[0].windows:
        yield bundle
        return
    with TemporaryDirectory(dir=bundle.root, prefix=".profile-") as folder:
        yield _with_float32_graphs(bundle, checkpoint, Path(folder))


def _with_float32_graphs(bundle: Bundle, checkpoint: Checkpoint, root: Path) -> Bundle:
    artifacts, options = [], TargetOptions(denoise=False)
    for stage in bundle.spec.ar_blocks:
        weights = checkpoint.block(stage.block)
        artifacts += OnnxTarget().export_block(
            root, checkpoint.config, stage, weights, PROFILE_PRECISION, options
        )
    for entry in bundle.manifest.arrays.values():
        (root / entry.path).parent.mkdir(exist_ok=True)
        shutil.copyfile(bundle.path(entry.path), root / entry.path)
    files = {
        path.relative_to(root).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
        for path in root.rglob("*")
        if path.is_file()
    }
    return Bundle(root, replace(bundle.manifest, artifacts=tuple(artifacts), files=files))
