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

import numpy as np

from ...runtime.engines.coreml_stage import cache_rows, function_name
from ...runtime.engines.coremltools_import import import_coremltools
from ...runtime.errors import UsageError
from ...runtime.manifest import Artifact, EngineName
from ...runtime.spec import ARBlock
from ..families.tarflow import LAYER_NORM_EPSILON, BlockWeights, TarFlowConfig
from ..options import PRECISIONS
from .base import TargetOptions
from .coreml_cache import CACHE_FORMS, WRITES, CacheForm
from .coreml_program_text import shorten
from .coreml_weights import add_constant, pack_weights

Var = Any  # a coremltools Var; the package has no type hints

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
        program = self.mil.Program()
        for branches in (1, 2):
            for window in windows:
                self.mil.Builder.name_count.clear()  # names start at 0 in every function
                function = _StepFunction(self, branches, window).build()
                program.add_function(function_name(branches, window), function)
        program.default_function_name = function_name(1, 1)
        program.export_as_multifunction = True
        return program


class _StepFunction:
    """One function: a window of ``window`` patches in ``rows`` guidance branches."""

    def __init__(self, builder: _ProgramBuilder, rows: int, window: int) -> None:
        self.config, self.weights = builder.config, builder.weights
        self.mil, self.target, self.form = builder.mil, builder.target, builder.form
        self.mb, self.types = self.mil.Builder, self.mil.types
        self.rows, self.window = rows, window
        self.cache_rows = cache_rows(self.config.num_patches)
        # One name for one shape in the whole package: the two kinds do not share states.
        self.state_prefix = "" if rows == 1 else "guided_"

    def build(self) -> Any:
        """The finished MIL function."""
        c, mb = self.config, self.mb
        with self.mil.Function(self._placeholders(), opset_version=self.target) as function:
            self.inputs: Mapping[str, Var] = function.inputs
            self.mask = self._half("mask")
            self.q_scale = self._half("q_scale") if self.rows == 2 else None
            self.write = WRITES[self.form](mb, self.inputs, self.window)
            h = mb.add(x=self._linear(self._half("x"), "proj_in"), y=self._half("context"))
            for i in range(c.layers_per_block):
                p = f"attn_blocks.{i}"
                h = mb.add(x=h, y=self._attention(i, self._norm(h, f"{p}.attention.norm"), p))
                y = self._linear(self._norm(h, f"{p}.mlp.norm"), f"{p}.mlp.main.0")
                y = self._linear(mb.gelu(x=y, mode="EXACT"), f"{p}.mlp.main.2")
                h = mb.add(x=h, y=y)
            y = self._linear(h, "proj_out")
            names = ("xa", "xb") if c.nvp else ("xb",)
            parts = mb.split(x=y, num_splits=2, axis=-1) if c.nvp else (y,)
            outputs = zip(names, parts, strict=True)
            function.set_outputs([mb.cast(x=part, dtype="fp32", name=n) for n, part in outputs])
            shorten(function)
        return function

    def _placeholders(self) -> dict[str, Any]:
        c, mb, R, W = self.config, self.mb, self.rows, self.window
        fp16, fp32, int32 = self.types.fp16, self.types.fp32, self.types.int32
        inputs = {
            "x": mb.placeholder((R, W, c.patch_dim), dtype=fp32),
            "context": mb.placeholder((R, W, c.channels), dtype=fp32),
            "mask": mb.placeholder((1, 1, W, self.cache_rows), dtype=fp32),
        }
        if self.form == "slice":
            inputs["position"] = mb.placeholder((1,), dtype=int32)
        else:
            inputs["write"] = mb.placeholder((1, 1, self.cache_rows, W), dtype=fp32)
        if R == 2:
            inputs["q_scale"] = mb.placeholder((R, 1, 1, 1), dtype=fp32)
        state = (R, c.num_heads, self.cache_rows, c.head_dim)
        for i in range(c.layers_per_block):
            for n in "kv":
                name = f"{self.state_prefix}{n}_{i}"
                inputs[name] = mb.state_tensor_placeholder(state, dtype=fp16)
        return inputs

    def _half(self, name: str) -> Var:
        return self.mb.cast(x=self.inputs[name], dtype="fp16", name=f"{name}_fp16")

    def _weight(self, name: str) -> Var:
        return add_constant(self.mil, name, self.weights[name])

    def _linear(self, x: Var, name: str) -> Var:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.mb.linear(x=x, weight=weight, bias=bias)

    def _norm(self, x: Var, name: str) -> Var:
        gamma, beta = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        epsilon = np.float16(LAYER_NORM_EPSILON)
        return self.mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=epsilon)

    def _attention(self, layer: int, x: Var, prefix: str) -> Var:
        c, mb, R, W = self.config, self.mb, self.rows, self.window
        qkv = self._linear(x, f"{prefix}.attention.qkv")
        heads = mb.reshape(x=qkv, shape=(R, W, 3 * c.num_heads, c.head_dim))
        heads = mb.transpose(x=heads, perm=HEADS_FIRST)  # queries, keys, values along axis 1
        q, k, v = mb.split(x=heads, num_splits=3, axis=1)
        if self.q_scale is not None:
            q = mb.mul(x=q, y=self.q_scale)
        keys = self._commit(f"{self.state_prefix}k_{layer}", k)
        values = self._commit(f"{self.state_prefix}v_{layer}", v)
        y = mb.scaled_dot_product_attention(query=q, key=keys, value=values, attn_mask=self.mask)
        y = mb.reshape(x=mb.transpose(x=y, perm=HEADS_FIRST), shape=(R, W, c.channels))
        return self._linear(y, f"{prefix}.attention.proj")

    def _commit(self, name: str, rows: Var) -> Var:
        """Write the window's rows into a state; returns the whole cache [R, H, S, d]."""
        state = self.inputs[name]
        value = self.write(self.mb.read_state(input=state), rows)
        return self.mb.coreml_update_state(state=state, value=value, name=f"{name}_new")


HEADS_FIRST = (0, 2, 1, 3)  # [R, W, H, d] <-> [R, H, W, d]


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
