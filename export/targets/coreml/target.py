"""Core ML: one multifunction ML program for each block, built with the MIL builder.

The functions and their inputs are described in ``runtime/engines/coreml_stage.py``. All of them
share one copy of the weights, quantized or float16. The body is float16, because a Core ML state
(the KV cache) has no other type; inputs and outputs are float32, so that the affine update stays
exact on the host.
Needs iOS 18 or macOS 15 (specification version 9), where states and multifunction programs begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ....runtime.engines.coreml_stage import function_name
from ....runtime.errors import UsageError
from ....runtime.manifest import Artifact, EngineName
from ....runtime.spec import ARBlock
from ...families.tarflow import BlockWeights, TarFlowConfig, emit_step
from ...options import PRECISIONS
from ..base import TargetOptions
from .cache import CACHE_FORMS
from .package import write_package
from .weights import pack_weights
from .writer import StepWriter


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
        stored, network = pack_weights(weights), emit_step(config, ("R", "W"), pair=True)
        functions = {
            function_name(branches, window): StepWriter(network, stored, branches, window, form)
            for branches in (1, 2)
            for window in windows
        }
        files = write_package(root / path, functions)
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
