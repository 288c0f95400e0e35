"""Weights packed for this processor and kept on this device; they are never part of a bundle.

ONNX Runtime lays out matrices for its kernels whenever it loads a graph, in memory of its own. A
graph that was saved after that is mapped: it opens sooner, and several processes share its pages.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import atomic_folder

GRAPH, WEIGHTS = "model.onnx", "weights.bin"


def packed_folder() -> Path:
    """``$XDG_CACHE_HOME/flowship/packed``, by default in ~/.cache; safe to remove at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "flowship" / "packed"


def packed_graph(file_hashes: Sequence[str], version: str) -> Path:
    """Where the packed form of a graph lies, whether or not there is one.

    Args:
        file_hashes: sha256 of each file of the artifact.
        version: of ONNX Runtime; another build or processor packs in another way.
    """
    words = "\n".join([*file_hashes, version, platform.machine(), _processor()])
    return packed_folder() / hashlib.sha256(words.encode()).hexdigest()[:32] / GRAPH


def pack_graph(ort: Any, options: Any, source: Path, target: Path) -> int:
    """Load ``source``, save it packed as ``target`` (all or nothing); returns the bytes written.

    Args:
        ort: the module onnxruntime.
        options: session options, which this call fills in further.
    """
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target.parent) as folder:
        options.optimized_model_filepath = str(folder / GRAPH)
        for key, value in (
            ("session.save_external_prepacked_constant_initializers", "1"),
            ("session.optimized_model_external_initializers_file_name", WEIGHTS),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            options.add_session_config_entry(key, value)
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return sum(file.stat().st_size for file in target.parent.iterdir())


def _processor() -> str:
    """The processor's name and its instruction sets, which virtual machines may cut down."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
