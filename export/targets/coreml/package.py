"""ML packages: functions that share one copy of their weights, without coremltools' passes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....runtime.engines.coremltools_import import import_coremltools
from .writer import Writer

MODEL_FOLDER = "com.apple.CoreML"  # author of the package's items, and their folder
ITEM_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, MODEL_FOLDER)  # name space of their identifiers


def write_package(package: Path, functions: Mapping[str, Writer]) -> list[str]:
    """Build all functions, the first of which is the default, write the package folder and return
    its files.

    Written here rather than by ``MLModel.save``: the weights go straight into their place, no pass
    rewrites the program, and the same functions give the same bytes (``save`` draws random
    identifiers).

    Raises:
        MissingExtraError: coremltools is not installed.
    """
    load = import_coremltools("Core ML export", ".converters.mil.backend.mil.load").load
    program, target = build_program(functions)
    model, weights = f"{MODEL_FOLDER}/model.mlmodel", f"{MODEL_FOLDER}/weights"
    (package / "Data" / weights).mkdir(parents=True)
    spec = load(
        program,
        weights_dir=str(package / "Data" / weights),
        specification_version=target.value,
        convert_to="mlprogram",
        convert_from="milinternal",
        export_multi_functions=True,
    )
    (package / "Data" / model).write_bytes(spec.SerializeToString(deterministic=True))
    (package / "Manifest.json").write_text(_package_manifest(model, weights), "utf-8")
    return ["Manifest.json", f"Data/{model}", f"Data/{weights}/weight.bin"]


def build_program(functions: Mapping[str, Writer]) -> tuple[Any, Any]:
    """A MIL program, and the oldest system that runs it."""
    mil = import_coremltools("Core ML export", ".converters.mil.mil")
    target = import_coremltools("Core ML export").target.iOS18
    program = mil.Program()
    for name, function in functions.items():
        mil.Builder.name_count.clear()  # names start at 0 in every function
        program.add_function(name, function.build(mil, target))
    program.default_function_name = next(iter(functions))
    program.export_as_multifunction = True
    return program, target


def _package_manifest(model: str, weights: str) -> str:
    """Manifest.json of the package; identifiers are derived from the names."""

    def item(path: str, description: str) -> dict[str, str]:
        name = path.rsplit("/", 1)[-1]
        return {"author": MODEL_FOLDER, "description": description, "name": name, "path": path}

    def identifier(path: str) -> str:
        return str(uuid.uuid5(ITEM_IDS, path))

    return json.dumps(
        {
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": {
                identifier(model): item(model, "CoreML Model Specification"),
                identifier(weights): item(weights, "CoreML Model Weights"),
            },
            "rootModelIdentifier": identifier(model),
        },
        indent=4,
    )
