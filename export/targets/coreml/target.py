"""Core ML: one multifunction ML program for each block, built with the MIL builder.

The functions and their inputs are described in ``runtime/engines/coreml_stage.py``. All of them
share one copy of the weights, quantized or float16. The body is float16, because a Core ML state
(the KV cache) has no other type; inputs and outputs are float32, so that the affine update stays
exact on the host.
Needs iOS 18 or macOS 15 (specification version 9), where states and multifunction programs begin.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....runtime.engines.coreml_stage import function_name
from ....runtime.engines.coremltools_import import import_coremltools
from ....runtime.errors import UsageError
from ....runtime.manifest import Artifact, EngineName
from ....runtime.spec import ARBlock
from ...families.tarflow import BlockWeights, TarFlowConfig
from ...families.tarflow_network import emit_step
from ...options import PRECISIONS
from ..base import TargetOptions
from .cache import CACHE_FORMS, CacheForm
from .weights import pack_weights
from .writer import StepWriter

MODEL_FOLDER = "com.apple.CoreML"  # author of the package's items, and their folder
ITEM_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, MODEL_FOLDER)  # name space of their identifiers


class CoreMLTarget:
    """Writes ``coreml/<precision>/<stage>.mlpackage``."""

    engine: EngineName = "coreml"
    precisions: tuple[str, ...] = PRECISIONS["coreml"]
    formats: Mapping[str, tuple[str, ...]] = {
        "int8": ("int8",),
        "int4": ("int4_g32",),
        "pal8": ("pal8",),
        "pal6": ("pal6",),
        "pal4": ("pal4",),
        "mixed": ("int8", "int4_g32", "int4_g64", "pal8", "pal6", "pal4"),
    }
    first_block_cost = 10.0  # importing coremltools

    def export_block(
        self,
        root: Path,
        config: TarFlowConfig,
        stage: ARBlock,
        weights: BlockWeights,
        precision: str,
        options: TargetOptions,
    ) -> list[Artifact]:
        """Write the package of a block; ``step`` and ``guided`` functions become two artifacts.

        Raises:
            UsageError: an unknown precision, or one that needs quantized matrices and got none.
            CheckpointError: a weight is beyond the range of float16.
            MissingExtraError: coremltools is not installed.
        """
        self._check(precision, weights)
        windows = options.windows_up_to(config.num_patches)
        form = CACHE_FORMS[options.coreml_compute_units]
        path = f"{self.engine}/{precision}/{stage.name}.mlpackage"
        files = _ProgramBuilder(config, weights, form).write_package(root / path, windows)
        return [
            Artifact(
                engine=self.engine,
                precision=precision,
                role="step",
                stage=stage.name,
                form=form,
                branches=branches,
                windows=windows,
                path=path,
                files=tuple(f"{path}/{file}" for file in files),
            )
            for branches in (1, 2)
        ]

    def _check(self, precision: str, weights: BlockWeights) -> None:
        if precision not in self.precisions:
            raise UsageError(
                f"coreml has no precision {precision!r}: a Core ML state (the KV cache) holds "
                f"float16 only, so choose from {', '.join(self.precisions)}"
            )
        allowed = self.formats.get(precision, ())
        for name, matrix in weights.quantized.items():
            if matrix.format.name not in allowed:
                raise UsageError(
                    f"coreml {precision}: {name} has the format {matrix.format.name}, expected "
                    f"{' or '.join(allowed) or 'float16'}"
                )
        if allowed and precision != "mixed" and not weights.quantized:
            raise UsageError(
                f"coreml {precision}: no matrix is quantized; quantize them to {allowed[0]} first"
            )


def placement_note(precision: str, compute_units: str) -> str | None:
    """A word of warning where weights and compute units are reported not to go together.

    Reports: github.com/apple/coreai-models/issues/279 (int8 in blocks computes wrong results on a
    Neural Engine, palettes right ones), github.com/apple/coremltools/issues/2716.
    """
    linear = precision.startswith("int")
    if linear and compute_units in ("all", "cpu-and-ne"):
        return (
            f"coreml {precision}: the Neural Engine is reported to run such weights wrongly: "
            "take pal8, pal6 or pal4 for it, or --coreml-compute-units cpu-and-gpu"
        )
    if precision.startswith("pal") and compute_units == "cpu-and-gpu":
        return (
            f"coreml {precision}: palettes are made for the Neural Engine: take int8 or int4 for "
            "the GPU, or --coreml-compute-units cpu-and-ne"
        )
    return None


class _ProgramBuilder:
    """Builds the program of one block with the modules of coremltools' MIL."""

    def __init__(self, config: TarFlowConfig, weights: BlockWeights, form: CacheForm) -> None:
        self.config, self.form = config, form
        self.mil = import_coremltools("Core ML export", ".converters.mil.mil")
        self.target = import_coremltools("Core ML export").target.iOS18
        self.weights = pack_weights(weights)

    def write_package(self, package: Path, windows: tuple[int, ...]) -> list[str]:
        """Build all functions, write the package folder and return its files.

        Written here rather than by ``MLModel.save``: the weights go straight into their place, no
        pass rewrites the program, and the same block gives the same bytes (``save`` draws random
        identifiers).
        """
        model, weights = f"{MODEL_FOLDER}/model.mlmodel", f"{MODEL_FOLDER}/weights"
        (package / "Data" / weights).mkdir(parents=True)
        load = import_coremltools("Core ML export", ".converters.mil.backend.mil.load").load
        spec = load(
            self._program(windows),
            weights_dir=str(package / "Data" / weights),
            specification_version=self.target.value,
            convert_to="mlprogram",
            convert_from="milinternal",
            export_multi_functions=True,
        )
        (package / "Data" / model).write_bytes(spec.SerializeToString(deterministic=True))
        (package / "Manifest.json").write_text(_package_manifest(model, weights), "utf-8")
        return ["Manifest.json", f"Data/{model}", f"Data/{weights}/weight.bin"]

    def _program(self, windows: tuple[int, ...]) -> Any:
        program, network = self.mil.Program(), emit_step(self.config, ("R", "W"), pair=True)
        for branches in (1, 2):
            for window in windows:
                self.mil.Builder.name_count.clear()  # names start at 0 in every function
                step = StepWriter(self.mil, network, self.weights, branches, window, self.form)
                function = step.build(self.target)
                program.add_function(function_name(branches, window), function)
        program.default_function_name = function_name(1, 1)
        program.export_as_multifunction = True
        return program


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
