"""ONNX Runtime: the graphs of one bundle and precision as inference sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, UsageError
from ..footprint import loaded_bytes
from ..manifest import Artifact
from ..progress import say
from ..spec import ARBlock, FlowSpec, ImageSpec
from ..text import utf8_path
from .base import ARStage, EngineInfo, EngineOptions, Floats, VJPStage, register_engine
from .onnx_core_stage import CoreStage
from .onnx_file import check_external_data, weights_files
from .onnx_forms import CORE, FLOATS, check_int8_cache_version, has_int8_cache
from .onnx_packed import (
    check_packed,
    make_packed_folder,
    pack_graph,
    packed_folder,
    packed_name,
)
from .onnx_stage import GqaStage
from .onnxruntime_import import import_onnxruntime, outdated
from .resources import SMALL_BLOCK_BYTES, default_threads, resident_bytes

if TYPE_CHECKING:
    import onnxruntime

    from ..bundle import Bundle

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
# What brings a provider that is not in the plain package.
PROVIDER_PACKAGES = {
    "cuda": "pip install 'flowship[onnx-gpu]' (in place of the extra onnx)",
    "dml": "pip install onnxruntime-directml (in place of the extra onnx, on Windows)",
    "coreml": "the extra onnx has it on macOS",
    "webgpu": "pip install onnxruntime-webgpu (in place of the extra onnx)",
}
IDLE_CACHE_BYTES = 16 << 20  # a closed stage with a larger cache is freed
FEW_ACTIVATION_BYTES = 4 << 20
# Values of a row that a layer writes: two norms, qkv, attention, two residual sums, an MLP of four
# times the width with its activation, and what a fused node writes beside its result.
ACTIVATIONS_OF_LAYER = 20


def _activation_bytes(spec: FlowSpec) -> int:
    """Of one picture in one call of the largest block, each kept in memory of its own."""
    values = max(block.num_layers * block.channels for block in spec.ar_blocks)
    return 4 * ACTIVATIONS_OF_LAYER * spec.image.num_patches * values


class OnnxEngine:
    """Opens the graphs of one bundle and precision as inference sessions.

    Sessions are kept for the next picture as long as their weights fit a third of the machine's
    memory; where one more would not, those of the other blocks are closed first.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.ort = import_onnxruntime("the engine onnx")
        self._bundle, self._options = bundle, options
        if options.device not in PROVIDERS:
            raise UsageError(
                f"the engine onnx has no device {options.device!r}: choose from "
                f"{', '.join(PROVIDERS)}"
            )
        self._provider = PROVIDERS[options.device]
        available = self.ort.get_available_providers()
        if self._provider not in available:
            raise EngineError(
                f"this onnxruntime has no device {options.device!r} (it has "
                f"{', '.join(d for d, p in PROVIDERS.items() if p in available)}): "
                f"{PROVIDER_PACKAGES.get(options.device, 'reinstall it')}"
            )
        threads = options.threads or default_threads(self._largest_block_bytes())
        if has_int8_cache(self._form()):
            check_int8_cache_version(self.ort.__version__)
        self._few_activations = _activation_bytes(bundle.spec) < FEW_ACTIVATION_BYTES
        self._resident_bytes, self._use_packed = resident_bytes(), options.packed
        self._sessions: dict[Artifact, onnxruntime.InferenceSession] = {}
        self._idle: dict[tuple[str, int, int], list[GqaStage]] = {}
        version = f"onnxruntime {self.ort.__version__}"
        self.info = EngineInfo("onnx", version, options.device, options.precision, threads)

    def _largest_block_bytes(self) -> int:
        return max(
            self._weight_bytes(self._find(block, "step", 1)[0])
            for block in self._bundle.spec.ar_blocks
        )

    def _weight_bytes(self, artifact: Artifact) -> int:
        """What a session of it holds: each packs (or maps) a copy of the weights for itself."""
        stage = next(b for b in self._bundle.spec.ar_blocks if b.name == artifact.stage)
        return loaded_bytes(self._bundle.manifest, artifact, stage)

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        # GroupQueryAttention takes several pictures at W = 1 alone, where graphs with codes have 2.
        if self._form() != FLOATS:
            return 1
        return 1 if branches == 2 and scaled_queries else None

    def _form(self) -> str:
        first = self._bundle.manifest.spec.ar_blocks[0]
        return self._find(first, "step", 1)[0].form

    def open(
        self,
        stage: ARBlock,
        *,
        num_images: int = 1,
        branches: int = 1,
        scaled_queries: bool = False,
    ) -> ARStage:
        if self._form() == CORE:
            return self._open_core(stage, branches)
        folded = branches == 2 and num_images == 1
        if scaled_queries and not folded:
            raise EngineError("the engine onnx runs attn_temp for one picture at a time")
        idle = self._idle.get((stage.name, branches, num_images))
        if idle:
            return idle.pop().opened_again()
        artifact = self._find(stage, "step", 2 if folded else 1)[0]
        rows = (branches, num_images)
        return GqaStage(self, self._session(artifact), artifact.form, stage, rows, folded)

    def keep_idle(self, stage: GqaStage) -> bool:
        """Keep a closed stage with its buffers for the next picture, where they are small."""
        kept = any(session is stage.session for session in self._sessions.values())
        if not kept or stage.cache_bytes > IDLE_CACHE_BYTES:
            return False
        self._idle.setdefault((stage.block.name, *stage.rows), []).append(stage)
        return True

    def _release_idle(self) -> None:
        for stages in self._idle.values():
            for stage in stages:
                stage.release()
        self._idle.clear()

    def _open_core(self, stage: ARBlock, branches: int) -> ARStage:
        artifacts = self._find(stage, "step", branches)
        sessions = {a.windows[0]: self._session(a) for a in artifacts}
        return CoreStage(sessions, stage, self.image, branches, self.info.precision)

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        # Each matrix is used as it is and transposed: packing it for both would double the memory.
        artifact = self._find(stage, "vjp", 1)[0]
        if self._weight_bytes(artifact) < SMALL_BLOCK_BYTES:
            session = self._session(artifact, prepack=False)
        else:  # it loads in a fiftieth of the time that it runs: keeping it only costs memory
            session = self._create_session(self._checked_path(artifact), prepack=False)
        return _OnnxVjp(session, self.run_options(shrink=True))

    def close(self) -> None:
        self._release_idle()
        self._sessions.clear()

    @property
    def image(self) -> ImageSpec:
        return self._bundle.spec.image

    def _find(self, stage: ARBlock, role: str, branches: int) -> tuple[Artifact, ...]:
        precision = self._options.precision
        found = self._bundle.manifest.find("onnx", precision, role, stage.name, branches)
        if not found:
            what = "denoising" if role == "vjp" else f"{branches}-branch {role}"
            raise EngineError(
                f"the bundle has no {what} graph of {stage.name} for onnx {precision}"
            )
        return found

    def _session(self, artifact: Artifact, prepack: bool = True) -> onnxruntime.InferenceSession:
        if artifact not in self._sessions:
            if sum(map(self._weight_bytes, [artifact, *self._sessions])) > self._resident_bytes:
                kept = {a: s for a, s in self._sessions.items() if a.stage == artifact.stage}
                self._sessions = kept
                self._release_idle()
            session = self._packed_session(artifact) if prepack else None
            if session is None:
                session = self._create_session(self._checked_path(artifact), prepack)
            self._sessions[artifact] = session
        return self._sessions[artifact]

    def _packed_session(self, artifact: Artifact) -> onnxruntime.InferenceSession | None:
        """None where weights are not packed; after one that cannot be opened, no other is tried."""
        caches = packed_folder() if self._use_packed and self.info.device == "cpu" else None
        folder = caches / self._packed_name(artifact) if caches else None
        if folder is None or not os.path.isdir(folder):
            return None
        try:
            graph = check_packed(folder)
        except PermissionError as error:
            reason = f"{error.filename}: {error.strerror}"
        else:
            try:
                return self._create_session(graph, optimize=False)
            except EngineError as error:
                reason = str(error)
        self._use_packed = False
        lines = " ".join(line.strip() for line in reason.splitlines())
        say(f"packed weights are left aside, remove {folder}: {lines}")
        return None

    def _checked_path(self, artifact: Artifact) -> Path:
        path = self._bundle.artifact_path(artifact)
        check_external_data(path, weights_files(artifact))
        return path

    def _packed_name(self, artifact: Artifact) -> str:
        hashes = [self._bundle.manifest.files[file].sha256 for file in artifact.files]
        return packed_name(hashes, self.info.version)

    def pack_weights(self) -> int:
        """Keep the step graphs packed for this processor; sessions map them from now on.

        Returns:
            Bytes written: twice the weights for each number of branches, 0 if it was done before.

        Raises:
            UsageError: on another device than the CPU, or caches have no place.
            EngineError: this version of ONNX Runtime cannot pack them, or not open them again.
        """
        if self.info.device != "cpu":
            raise UsageError(f"weights are packed for the cpu, not for {self.info.device}")
        caches, written = make_packed_folder(), 0
        wanted = ("onnx", self._options.precision, "step")
        for artifact in self._bundle.manifest.artifacts:
            if (artifact.engine, artifact.precision, artifact.role) != wanted:
                continue
            target = caches / self._packed_name(artifact)
            if not target.is_dir():
                source, options = self._checked_path(artifact), self._session_options()
                version = self.info.version
                written += pack_graph(self._open_packing, options, source, target, version)
        return written

    def _open_packing(self, path: Path, options: Any) -> onnxruntime.InferenceSession:
        if options is None:
            return self._create_session(path, optimize=False)
        return self._load(path, options)

    def run_options(self, *, shrink: bool) -> Any:
        """With ``shrink`` the session gives its activations back after each call (CPU only).

        None elsewhere: ONNX Runtime 1.32 asks options for an entry at every call and takes an
        exception for "not there", 59 us on a machine where the whole call takes 200.
        """
        if not shrink or self.info.device != "cpu":
            return None
        options = self.ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _session_options(self) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.info.threads, 1
        options.log_severity_level = 4  # errors come as exceptions
        # Planning which activations share memory costs more at each call than it saves there.
        options.enable_mem_reuse = not self._few_activations
        # Spinning threads burn the other core between two calls and ruin both on a busy machine.
        spinning = "1" if self._options.spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        return options

    def _create_session(
        self, path: Path, prepack: bool = True, optimize: bool = True
    ) -> onnxruntime.InferenceSession:
        options = self._session_options()
        if not optimize:
            levels = self.ort.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        return self._load(path, options)

    def _load(self, path: Path, options: Any) -> onnxruntime.InferenceSession:
        name = utf8_path(path, "ONNX Runtime")
        try:
            return self.ort.InferenceSession(name, options, providers=[self._provider])
        except Exception as error:  # onnxruntime's exceptions have no common base
            hint = outdated(self.ort.__version__)
            raise EngineError(f"onnxruntime cannot load {path}: {error}{hint}") from error


class _OnnxVjp:
    def __init__(self, session: onnxruntime.InferenceSession, options: Any) -> None:
        self._session: Any = session
        self._options = options
        self._names = [value.name for value in session.get_inputs()]

    def run(self, x: Floats, context: Floats, grad_xa: Floats, grad_xb: Floats) -> Floats:
        given = {"x": x, "context": context, "grad_xa": grad_xa, "grad_xb": grad_xb}
        inputs = {name: np.ascontiguousarray(given[name]) for name in self._names}
        grad: Floats = self._session.run(None, inputs, self._options)[0]
        return grad

    def close(self) -> None:
        self._session = None


@register_engine("onnx")
def open_onnx(bundle: Bundle, options: EngineOptions) -> OnnxEngine:
    """The engine of ``--engine onnx``; device cpu, or one of the providers that are installed."""
    return OnnxEngine(bundle, options)
