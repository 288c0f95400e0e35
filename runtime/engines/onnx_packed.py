"""Weights packed for this processor and kept on this device; they are never part of a bundle.

ONNX Runtime lays out matrices for its kernels whenever it loads a graph, in memory of its own. A
graph that was saved after that is mapped: it opens sooner, and several processes share its pages.
Sizes and hashes lie beside it and are checked before it is opened, like those of a bundle.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_folder
from ..errors import BundleError, EngineError
from ..hashing import sha256_of
from ..manifest import FileEntry
from ..safe_paths import regular_file
from ..schema import from_json, parse_json, to_json
from ..user_folders import make_user_folder, user_folder

FOLDER = "packed"  # among the caches
GRAPH, WEIGHTS, SUMS = "model.onnx", "weights.bin", "files.json"
LAYOUT = "2"  # of this folder; another one is another place

OpenSession = Callable[[Path, Any], Any]


@dataclass(frozen=True)
class _Packed:
    """files.json."""

    files: dict[str, FileEntry]


def packed_folder() -> Path | None:
    """``$XDG_CACHE_HOME/flowship/packed``, by default in ~/.cache; safe to remove at any time.

    None where there is no home.
    """
    return user_folder("caches", FOLDER)


def make_packed_folder() -> Path:
    """The folder, made where it is not there.

    Raises:
        UsageError: it cannot be written to; the message names the variable that helps.
    """
    return make_user_folder("caches", FOLDER)


def packed_name(file_hashes: Sequence[str], version: str) -> str:
    """What the folder of a packed graph is called.

    Args:
        file_hashes: sha256 of each file of the artifact.
        version: of ONNX Runtime; another build or processor packs in another way.
    """
    words = "\n".join([LAYOUT, *file_hashes, version, platform.machine(), _processor()])
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def pack_graph(
    open_session: OpenSession, options: Any, source: Path, target: Path, version: str
) -> int:
    """Load ``source``, save it packed in the folder ``target``; returns the bytes written.

    All or nothing: it is opened once before it is kept, because not every version of ONNX Runtime
    can open what it saved.

    Args:
        open_session: with a graph's path and session options; None for those of packed graphs.
        options: session options, which this call fills in further.
        version: of ONNX Runtime.

    Raises:
        EngineError: it cannot be packed, or not opened after that.
    """
    with atomic_folder(target) as folder:
        options.optimized_model_filepath = str(folder / GRAPH)
        for key, value in (
            ("session.save_external_prepacked_constant_initializers", "1"),
            ("session.optimized_model_external_initializers_file_name", WEIGHTS),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            options.add_session_config_entry(key, value)
        try:
            open_session(source, options)
            open_session(folder / GRAPH, None)
        except EngineError as error:
            raise EngineError(
                f"{version} cannot pack {source} in {target.parent} and open it again: {error}"
            ) from error
        files = [file for file in (folder / GRAPH, folder / WEIGHTS) if file.exists()]
        sums = {file.name: FileEntry(file.stat().st_size, sha256_of(file)) for file in files}
        (folder / SUMS).write_text(json.dumps(to_json(_Packed(sums))), "utf-8")
    return sum(entry.bytes for entry in sums.values())


def check_packed(folder: Path) -> Path:
    """The graph in it, after its files were found to have the sizes and hashes of their making.

    Raises:
        EngineError: they have not; the message says how to go on.
        PermissionError: they cannot be read.
    """
    try:
        found = parse_json((folder / SUMS).read_text("utf-8"), SUMS)
        for name, wanted in from_json(_Packed, found, SUMS).files.items():
            if sha256_of(regular_file(folder, name, wanted.bytes)) != wanted.sha256:
                raise BundleError(f"{name} has another sha256 than when it was written")
    except PermissionError:
        raise
    except (BundleError, OSError, UnicodeDecodeError) as error:
        raise EngineError(
            f"the packed weights in {folder} are damaged ({error}): remove this folder, and pack "
            "them again with flowship plan --pack-weights"
        ) from error
    return folder / GRAPH


def _processor() -> str:
    """The processor's name and its instruction sets, which virtual machines may cut down."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
