"""Bundles of published sizes with random weights, made once and kept in a cache folder."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..runtime.errors import MissingExtraError, UsageError
from ..runtime.locks import private_folder
from ..runtime.manifest import Golden, Manifest, Source
from ..runtime.opening import made_for
from ..runtime.progress import ProgressLine
from ..runtime.user_folders import make_user_folder, user_folder

FOLDER = "bench"  # among the caches
# The presets of the exporter, whose import takes seconds: a name that is not there is told at once.
NAMES = (
    "tarflow-afhq256",
    "tarflow-imagenet64",
    "tarflow-imagenet64-cond",
    "tarflow-imagenet128",
    "tarflow-starflow-width",
    "tarflow-tiny",
)


def synthetic_bundle(
    name: str,
    engines: Sequence[str],
    precisions: Sequence[str | None],
    progress: ProgressLine,
) -> Path:
    """The bundle of a published size for these engines; exported if it is not in the cache.

    Raises:
        UsageError: no such size; the message lists those there are.
        MissingExtraError: torch is not there, which the export needs.
    """
    targets = sorted({made_for(engine) for engine in engines})
    wanted = [precision for precision in precisions if precision] or ["default"]
    words = [name, __version__, *targets, *wanted]
    file = "-".join(words) + ".flowship"
    kept = user_folder("caches", FOLDER, file)
    if kept and os.path.isdir(kept):
        return kept
    preset = find_preset(name)
    synthetic, pipeline, requests = map(export_module, ("synthetic", "pipeline", "request"))
    path = make_user_folder("caches", FOLDER) / file
    progress.note(f"making {name} with random weights once: {path}")
    # on the same disk: a checkpoint of two gigabytes may not fit where temporary files lie
    with private_folder(path.parent, ".checkpoint-") as folder:
        checkpoint = synthetic.write_checkpoint(folder, preset.dataset, preset.config)
        known = tuple(precision for precision in precisions if precision)
        request = requests.ExportRequest(tuple(targets), known, name=name)
        pipeline.export_checkpoint(checkpoint, path, request, progress)
    return path


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown models before the exporter is imported.

    Raises:
        UsageError: no such size; the message lists those there are.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"unknown model {name!r}: choose from {', '.join(NAMES)}")


def published_manifest(name: str) -> Manifest:
    """What a bundle of a published size would say of itself, to predict its cost: it has no files.

    Raises:
        UsageError: no such size; the message lists those there are.
        MissingExtraError: the exporter's packages are not installed.
    """
    preset = find_preset(name)
    return Manifest(
        schema_version=1,
        flowship_version=__version__,
        name=name,
        spec=preset.config.flow_spec(),
        source=Source(name, "0" * 64, "none", num_parameters=preset.config.num_parameters),
        arrays={},
        files={},
        artifacts=(),
        quality=(),
        golden=Golden(1, "0" * 64),
    )


def find_preset(name: str) -> Any:
    """The exporter's sizes of a model.

    Raises:
        UsageError: no such size; the message lists those there are.
        MissingExtraError: the exporter's packages are not installed.
    """
    check_names([name])
    return export_module("synthetic").PRESETS[name]


def export_module(name: str) -> Any:
    """A module of the exporter, by name: benchmarks of bundles do without it and without torch.

    Raises:
        MissingExtraError: its packages are not installed.
    """
    package = __package__.rpartition(".")[0]
    try:
        return importlib.import_module(f"{package}.export.{name}")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise MissingExtraError("a published size", missing, "export") from error
