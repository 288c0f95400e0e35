"""ONNX target: step graphs and vector-Jacobian graphs of a block around one weights file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx

from ....runtime.engines.onnx_forms import (
    CODES,
    CODES_INT8_CACHE,
    FLOATS,
    check_int8_cache_version,
)
from ....runtime.engines.onnxruntime_import import import_onnxruntime
from ....runtime.errors import UsageError
from ....runtime.manifest import Artifact, EngineName
from ....runtime.spec import ARBlock
from ...families.tarflow import BlockWeights, TarFlowConfig, emit_step
from ...graph import vector_jacobian
from ...options import PRECISIONS
from ..base import TargetOptions, check_precision
from .cached import CoreWriter, GqaWriter, scale_name
from .file import WeightsFile
from .quantized import PackedMatrix, add_matrix
from .writer import Writer

# Channels from which on products of codes pay. Below, a block's floats fit the caches of
# processors, so that codes save disk and no time; and codes go with 8-bit activations, which cost
# the embedded model 7 dB (median of 8 pictures in int8).
WIDE = 512
HEAD_UNIT = 8  # of ONNX Runtime's GroupQueryAttention


class OnnxTarget:
    """Writes ``onnx/<precision>/<block>.weights.bin`` and the small graphs that point into it."""

    engine: EngineName = "onnx"
    precisions: tuple[str, ...] = PRECISIONS["onnx"]
    # One scale for a row ("int8") is not among them: MatMulNBits has groups along the inputs.
    formats: Mapping[str, tuple[str, ...]] = {
        "int8": ("int8_g128", "int8_g64", "int8_g32"),
        "int4": ("int4_g128", "int4_g64", "int4_g32"),
        "mixed": ("int8_g128", "int8_g64", "int8_g32", "int4_g128", "int4_g64", "int4_g32"),
    }
    first_block_cost = 1.0

    def export_block(
        self,
        root: Path,
        config: TarFlowConfig,
        stage: ARBlock,
        weights: BlockWeights,
        precision: str,
        options: TargetOptions,
    ) -> list[Artifact]:
        self._check(precision, options, config)
        folder = root / "onnx" / precision
        folder.mkdir(parents=True, exist_ok=True)
        file = WeightsFile(folder / f"{stage.name}.weights.bin", f"{stage.name}.weights.bin")
        try:
            packed = add_weights(file, weights, precision, self.formats.get(precision, ()))
        finally:
            file.close()
        artifacts = []
        wide = config.channels >= WIDE and options.onnx_form == "gqa"
        step, half = emit_step(config, ("N", "W")), precision == "fp16"
        for branches in (1, 2):
            if options.onnx_form == "gqa":
                form = _gqa_form(wide and bool(packed), weights.cache_scales is not None)
                gqa = GqaWriter(step, file, packed, half=half, branches=branches, form=form)
                model = gqa.build(f"{form}_b{branches}")
                artifacts.append(self._write(root, model, stage, precision, "step", branches, ()))
                continue
            for window in options.windows_up_to(config.num_patches):
                core = CoreWriter(step, file, packed, half=half, rows=branches, window=window)
                model, menu = core.build(f"core_w{window}_r{branches}"), (window,)
                artifacts.append(self._write(root, model, stage, precision, "step", branches, menu))
        if options.denoise and config.noise.kind == "gaussian":
            whole = emit_step(config, (config.num_patches,), cached=False, pair=True)
            vjp = Writer(vector_jacobian(whole, "x"), file, packed, half=half, cast=True)
            vjp.unpack_once = not wide
            model = weights_first(vjp.build("vjp"))
            artifacts.append(self._write(root, model, stage, precision, "vjp", 1, ()))
        return artifacts

    def _check(self, precision: str, options: TargetOptions, config: TarFlowConfig) -> None:
        """Raise UsageError for what cannot be written."""
        check_precision(self, precision)
        check_heads(config, options)
        if options.onnx_form == "core" and options.onnx_kv_cache == "int8":
            raise UsageError("the onnx form core has a float KV cache: choose the form gqa")

    def _write(
        self,
        root: Path,
        model: onnx.ModelProto,
        stage: ARBlock,
        precision: str,
        role: str,
        branches: int,
        windows: tuple[int, ...],
    ) -> Artifact:
        path = f"onnx/{precision}/{stage.name}.{model.graph.name}.onnx"
        (root / path).write_bytes(model.SerializeToString())
        return Artifact(
            engine="onnx",
            precision=precision,
            role="vjp" if role == "vjp" else "step",
            stage=stage.name,
            form=model.graph.name.split("_")[0],
            branches=branches,
            windows=windows,
            path=path,
            files=(path, f"onnx/{precision}/{stage.name}.weights.bin"),
        )


def check_heads(config: TarFlowConfig, options: TargetOptions) -> None:
    """Raise UsageError for heads that the form cannot have."""
    if options.onnx_form == "gqa" and config.head_dim % HEAD_UNIT:
        raise UsageError(
            f"the onnx form gqa takes heads of multiples of {HEAD_UNIT} values, this model's "
            f"have {config.head_dim}: say --onnx-form core"
        )


def check_int8_cache(config: TarFlowConfig, precisions: Collection[str]) -> None:
    """Refuse an int8 KV cache where it cannot be had.

    Args:
        precisions: in which the model is exported to ONNX.

    Raises:
        UsageError: none of them is quantized, or the model is not wide.
        EngineError: the installed ONNX Runtime, which compares the result, cannot run it.
    """
    if not any(precision in OnnxTarget.formats for precision in precisions):
        raise UsageError(
            "--onnx-kv-cache int8 is for quantized precisions of onnx: export one of "
            f"{', '.join(OnnxTarget.formats)}"
        )
    if config.channels < WIDE:
        raise UsageError(
            f"--onnx-kv-cache int8 is for models with {WIDE} channels and more, this one has "
            f"{config.channels}: it computes in float32, where windows would give other pictures "
            "with such a cache; leave it out"
        )
    check_int8_cache_version(import_onnxruntime("the comparison").__version__)


def _gqa_form(codes: bool, int8_cache: bool) -> str:
    assert codes or not int8_cache, "see check_int8_cache()"
    return FLOATS if not codes else CODES_INT8_CACHE if int8_cache else CODES


def weights_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the nodes that read nothing but weights, which unpack them, before all others.

    Of what a node waits for, ONNX Runtime 1.32 runs first what was written last. With the unpacking
    in front a matrix is unpacked when the activations are there; behind them all matrices are, on
    the way to the first gradient (13.3 GB in place of 2.7 for 2.7 billion parameters in 4 bits).
    """
    known = {"", *(tensor.name for tensor in model.graph.initializer)}
    early, late = [], []
    for node in model.graph.node:
        if known.issuperset(node.input):
            known.update(node.output)
            early.append(node)
        else:
            late.append(node)
    del model.graph.node[:]
    model.graph.node.extend(early + late)
    return model


def add_weights(
    file: WeightsFile, weights: BlockWeights, precision: str, formats: Collection[str]
) -> dict[str, PackedMatrix]:
    """Append a block's parameters, one at a time (both mappings may make them when asked).

    Matrices are [out, in], as in the checkpoint.

    Args:
        formats: those that quantized matrices may have.

    Returns:
        The quantized matrices by name.

    Raises:
        UsageError: a matrix in another format.
    """
    dtype, packed = np.float16 if precision == "fp16" else np.float32, {}
    if weights.cache_scales is not None:
        for layer, scales in enumerate(weights.cache_scales):
            for n, scale in zip("kv", scales, strict=True):
                for branches in (1, 2):
                    file.add(scale_name(n, layer, branches), np.tile(scale, branches))
    for name in weights.network:
        if name not in weights.quantized:
            file.add(name, weights.network[name].astype(dtype))
            continue
        matrix = weights.quantized[name]
        if matrix.format.name not in formats:
            raise UsageError(
                f"onnx {precision} cannot store {name} as {matrix.format.name}: choose from "
                f"{', '.join(formats) or 'the precisions int8, int4 and mixed'}"
            )
        packed[name] = add_matrix(file, name, matrix)
    return packed
