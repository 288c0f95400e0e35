"""ONNX Runtime: step graphs with everything bound once and nothing allocated per call."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, MissingExtraError, UsageError
from ..manifest import Artifact
from ..spec import ARBlock, FlowSpec
from .base import ARStage, EngineInfo, EngineOptions, Floats, VJPStage, register_engine
from .menu import split_window
from .onnx_file import check_external_data
from .onnx_packed import pack_graph, packed_graph
from .onnx_quantized import cache_capacity, is_quantized, run_window
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
CONTEXT_BYTES = 16 << 20  # position + class rows of all patches are added up front below this
IDLE_CACHE_BYTES = 16 << 20  # a closed stage with a larger cache is freed
MASKED = {"fp32": -1e30, "fp16": -3e4}  # finite, and inside the range of the precision
FEW_ACTIVATION_BYTES = 4 << 20
# Values of a row that a layer writes: two norms, qkv, attention, two residual sums, an MLP of four
# times the width with its activation, and what a fused node writes beside its result.
ACTIVATIONS_OF_LAYER = 20
# Activations of such windows take more memory than what allocating them again takes time.
SHRINKING_WINDOW = 256


def _activation_bytes(spec: FlowSpec) -> int:
    """Of one picture in one call of the largest block, each kept in memory of its own."""
    values = max(block.num_layers * block.channels for block in spec.ar_blocks)
    return 4 * ACTIVATIONS_OF_LAYER * spec.image.num_patches * values


def _cache_dtype(precision: str) -> np.dtype[Any]:
    return np.dtype(np.float16 if precision == "fp16" else np.float32)


class OnnxEngine:
    """Opens the graphs of one bundle and precision as inference sessions.

    Sessions are kept for the next picture as long as their weights fit a third of the machine's
    memory; where one more would not, those of the other blocks are closed first.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("the engine onnx", "onnxruntime", "onnx") from error
        self._ort, self._bundle, self._options = onnxruntime, bundle, options
        if options.device not in PROVIDERS:
            raise UsageError(
                f"the engine onnx has no device {options.device!r}: choose from "
                f"{', '.join(PROVIDERS)}"
            )
        self._provider = PROVIDERS[options.device]
        available = onnxruntime.get_available_providers()
        if self._provider not in available:
            raise EngineError(
                f"this onnxruntime has no device {options.device!r} (it has "
                f"{', '.join(d for d, p in PROVIDERS.items() if p in available)}): "
                f"{PROVIDER_PACKAGES.get(options.device, 'reinstall it')}"
            )
        threads = options.threads or default_threads(self._largest_block_bytes())
        self._few_activations = _activation_bytes(bundle.spec) < FEW_ACTIVATION_BYTES
        self._resident_bytes = resident_bytes()
        self._sessions: dict[Artifact, onnxruntime.InferenceSession] = {}
        self._idle: dict[tuple[str, int, int], list[_GqaStage]] = {}
        version = f"onnxruntime {onnxruntime.__version__}"
        self.info = EngineInfo("onnx", version, options.device, options.precision, threads)

    def _largest_block_bytes(self) -> int:
        return max(
            self._weight_bytes(self._find(block, "step", 1)[0])
            for block in self._bundle.spec.ar_blocks
        )

    def _weight_bytes(self, artifact: Artifact) -> int:
        """What a session of it holds: each packs (or maps) a copy of the weights for itself."""
        return sum(self._bundle.manifest.files[file].bytes for file in artifact.files)

    def max_images(self, branches: int, scaled_queries: bool) -> int | None:
        # GroupQueryAttention takes several pictures at W = 1 alone, where quantized graphs have 2.
        if self._form() == "core" or is_quantized(self._options.precision):
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
        if self._form() == "core":
            return self._open_core(stage, branches)
        folded = branches == 2 and num_images == 1
        if scaled_queries and not folded:
            raise EngineError("the engine onnx runs attn_temp for one picture at a time")
        idle = self._idle.get((stage.name, branches, num_images))
        if idle:
            return idle.pop()
        graphs = {own: self._find(stage, "step", 2 if own else 1)[0] for own in {folded, False}}

        def session(folded: bool) -> onnxruntime.InferenceSession:
            return self._session(graphs[folded])

        rows = (branches, num_images)
        return _GqaStage(self, session, stage, self._patch_dim, rows, folded)

    def keep_idle(self, stage: _GqaStage) -> bool:
        """Keep a closed stage with its buffers for the next picture, where they are small."""
        mine = {id(session) for session in self._sessions.values()}
        kept = all(id(session) in mine for session in stage.sessions.values())
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
        T = self._bundle.manifest.spec.image.num_patches
        dtype = _cache_dtype(self._options.precision)
        masked = MASKED[self._options.precision]
        return _CoreStage(sessions, stage, T, self._patch_dim, branches, dtype, masked)

    def open_vjp(self, stage: ARBlock) -> VJPStage:
        # Each matrix is used as it is and transposed: packing it for both would double the memory.
        artifact = self._find(stage, "vjp", 1)[0]
        if self._weight_bytes(artifact) < SMALL_BLOCK_BYTES:
            session = self._session(artifact, prepack=False)
        else:  # it loads in a fiftieth of the time that it runs: keeping it only costs memory
            path = self._bundle.artifact_path(artifact)
            session = self._create_session(path, prepack=False)
        return _OnnxVjp(session, self._run_options(shrink=True))

    def close(self) -> None:
        self._release_idle()
        self._sessions.clear()

    @property
    def _patch_dim(self) -> int:
        return self._bundle.manifest.spec.image.patch_dim

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
            packed = self._packed_graph(artifact) if prepack else None
            if packed and packed.is_file():
                self._sessions[artifact] = self._create_session(packed, optimize=False)
            else:
                path = self._checked_path(artifact)
                self._sessions[artifact] = self._create_session(path, prepack)
        return self._sessions[artifact]

    def _checked_path(self, artifact: Artifact) -> Path:
        path = self._bundle.artifact_path(artifact)
        check_external_data(path, [file.rsplit("/", 1)[-1] for file in artifact.files])
        return path

    def _packed_graph(self, artifact: Artifact) -> Path | None:
        if self._provider != PROVIDERS["cpu"]:
            return None
        hashes = [self._bundle.manifest.files[file].sha256 for file in artifact.files]
        return packed_graph(hashes, self.info.version)

    def pack_weights(self) -> int:
        """Keep the step graphs packed for this processor; sessions map them from now on.

        Returns:
            Bytes written: twice the weights for each number of branches, 0 if it was done before.

        Raises:
            UsageError: on another device than the CPU.
        """
        written = 0
        for artifact in self._bundle.manifest.artifacts:
            if (artifact.engine, artifact.precision) != ("onnx", self._options.precision):
                continue
            target = self._packed_graph(artifact)
            if target is None:
                raise UsageError(f"weights are packed for the cpu, not for {self.info.device}")
            if artifact.role == "step" and not target.is_file():
                source = self._checked_path(artifact)
                written += pack_graph(self._ort, self._session_options(), source, target)
        return written

    def _run_options(self, *, shrink: bool) -> Any:
        """With ``shrink`` the session gives its activations back after each call (CPU only).

        None elsewhere: ONNX Runtime 1.32 asks options for an entry at every call and takes an
        exception for "not there", 59 us on a machine where the whole call takes 200.
        """
        if not shrink or self.info.device != "cpu":
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
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
            levels = self._ort.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            return self._ort.InferenceSession(str(path), options, providers=[self._provider])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise EngineError(f"onnxruntime cannot load {path}: {error}") from error


class _Binding:
    """Input and output buffers of one window length, bound to a session once.

    ``folded`` binds the graph whose branches are heads, else the one whose branches are rows.
    """

    def __init__(self, stage: _GqaStage, window: int, folded: bool) -> None:
        branches, N = stage.rows
        R, D, C = branches * N, stage.patch_dim, stage.block.channels
        self.rows = rows = run_window(window, stage.precision)  # those past the window: thrown away
        x = np.zeros((branches, N, rows, D), np.float32)
        context = np.zeros((branches, N, rows, C), np.float32)
        self.x, self.context = x[:, :, :window], context[:, :, :window]
        self.output = np.zeros((R, rows, stage.output_dim), np.float32)
        split = self.output.reshape(branches, N, rows, -1)[:, :, :window]
        self.xb = split[..., -D:]
        self.xa = split[..., :D] if stage.output_dim == 2 * D else np.zeros_like(self.xb)
        self._inputs = {
            "x": x.reshape(R, rows, D),
            "context": context.reshape(R, rows, C),
            "seqlens_k": stage.seqlens_k[: 1 if folded else R],
            "total_len": stage.total_len,
        }
        if folded:
            self._inputs["qkv_scale"] = stage.qkv_scale
        self._stage = stage
        self._options = stage._engine._run_options(shrink=window >= SHRINKING_WINDOW)
        self._session = stage.session(folded)
        self.io = self._session.io_binding()
        self._values = stage.cache_values(folded)
        for name, value in self._values.items():
            self.io.bind_ortvalue_input(f"past_{name}", value)
            self.io.bind_ortvalue_output(f"present_{name}", value)
        self._bound = [self._bind_input(n, a) for n, a in self._inputs.items()]
        if stage.on_cpu:
            value = stage.ort.OrtValue.ortvalue_from_numpy(self.output)
            self._bound.append(value)
            self.io.bind_ortvalue_output("ab", value)
        else:
            self.io.bind_output("ab", "cpu")

    def _bind_input(self, name: str, array: npt.NDArray[Any]) -> Any:
        value = self._stage.ort.OrtValue.ortvalue_from_numpy(array)  # shares the array's memory
        self.io.bind_ortvalue_input(name, value)
        return value

    def run(self) -> None:
        if self._stage.on_cpu:
            self._session.run_with_iobinding(self.io, self._options)
            return
        # Binding copies to the device at that moment, so inputs are bound again for each call.
        for name, array in self._inputs.items():
            self.io.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self.io)
        self.output[:] = self.io.copy_outputs_to_cpu()[-1]


class _GqaStage:
    """A block in the ``gqa`` form: past and present share one buffer.

    One guided picture needs the graph that folds its two branches into heads, except for single
    patches on the CPU: there the plain graph takes the branches as two rows, with the same bits in
    nine tenths of the time. Both see the cache of [2 heads, T, d] values in the same order.
    """

    windows: tuple[int, ...] = ()

    def __init__(
        self,
        engine: OnnxEngine,
        open_session: Callable[[bool], onnxruntime.InferenceSession],
        block: ARBlock,
        patch_dim: int,
        rows: tuple[int, int],
        folded: bool,
    ) -> None:
        self._open_session, self.block, self.patch_dim = open_session, block, patch_dim
        self.sessions: dict[bool, onnxruntime.InferenceSession] = {}  # by whether they fold
        self.rows, self.folded, self.ort, self._engine = rows, folded, engine._ort, engine
        self.on_cpu = engine.info.device == "cpu"
        self.output_dim = patch_dim if block.scale == "none" else 2 * patch_dim
        R = rows[0] * rows[1]
        cache_rows = 1 if folded else R
        self.seqlens_k, self.total_len = np.zeros(R, np.int32), np.zeros((), np.int32)
        self.qkv_scale = np.ones((3, 2, 1), np.float32)
        self.precision = engine._options.precision
        capacity = cache_capacity(engine._bundle.manifest.spec.image.num_patches, self.precision)
        heads = block.num_heads * (2 if folded else 1)
        shape = (cache_rows, heads, capacity, block.head_dim)
        dtype = _cache_dtype(self.precision)
        self._takes_rows = folded and self.on_cpu and not is_quantized(self.precision)
        # zeros: a NaN behind the mask would still poison
        self._cache = {
            f"{n}_{i}": np.zeros(shape, dtype) for i in range(block.num_layers) for n in "kv"
        }
        self._values: dict[bool, dict[str, Any]] = {}
        self.cache_bytes = 2 * block.num_layers * prod(shape) * dtype.itemsize
        self._bindings: dict[tuple[int, bool], _Binding] = {}
        self._pos = self._classes = np.zeros(0, np.float32)
        self._context: Floats | None = None
        self._plain_queries = True

    def session(self, folded: bool) -> onnxruntime.InferenceSession:
        """Opened when it is first needed."""
        if folded not in self.sessions:
            self.sessions[folded] = self._open_session(folded)
        return self.sessions[folded]

    def cache_values(self, folded: bool) -> dict[str, Any]:
        """The cache as a graph wants it; on the CPU all see the same memory."""
        if folded not in self._values:
            self._values[folded] = {
                name: self._cache_value(array, folded) for name, array in self._cache.items()
            }
        return self._values[folded]

    def _cache_value(self, array: npt.NDArray[Any], folded: bool) -> Any:
        if not self.on_cpu:
            return self.ort.OrtValue.ortvalue_from_numpy(array, self._engine.info.device, 0)
        if self.folded and not folded:
            array = array.reshape(2, -1, *array.shape[2:])
        return self.ort.OrtValue.ortvalue_from_numpy(array)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._pos, self._classes = pos, classes[:, :, None]
        rows = classes.shape[0] * classes.shape[1]
        self._context = pos + self._classes if pos.nbytes * rows <= CONTEXT_BYTES else None
        if self.folded:
            self.qkv_scale[0, :, 0] = q_scale
            self._plain_queries = bool((q_scale == 1).all())

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        window = x.shape[1]
        folded = self.folded and not (window == 1 and self._takes_rows and self._plain_queries)
        binding = self._bindings.get((window, folded))
        if binding is None:
            binding = self._bindings[window, folded] = _Binding(self, window, folded)
        end = position + window
        binding.x[:] = x
        if self._context is not None:
            binding.context[:] = self._context[:, :, position:end]
        else:
            np.add(self._pos[position:end], self._classes, out=binding.context)
        total = position + binding.rows
        self.seqlens_k[:] = total - 1
        self.total_len[...] = total
        binding.run()
        return binding.xa, binding.xb

    def close(self) -> None:
        if not self._engine.keep_idle(self):
            self.release()

    def release(self) -> None:
        """Free the buffers and let go of the session, whoever still holds this stage."""
        self._bindings.clear()  # they refer to the stage: only the garbage collector would find it
        self._values.clear()
        self._cache.clear()
        self.sessions.clear()


class _CoreStage:
    """A block in the ``core`` form: static windows, the host keeps and commits the cache."""

    def __init__(
        self,
        sessions: dict[int, onnxruntime.InferenceSession],
        block: ARBlock,
        num_patches: int,
        patch_dim: int,
        branches: int,
        dtype: np.dtype[Any],
        masked: float,
    ) -> None:
        self._sessions, self._T, self._D, self._branches = (
            sessions,
            num_patches,
            patch_dim,
            branches,
        )
        self._masked, self._nvp = masked, block.scale != "none"
        self.windows = tuple(sorted(sessions))
        shape = (branches, block.num_heads, num_patches, block.head_dim)
        names = [f"{n}_{i}" for i in range(block.num_layers) for n in "kv"]
        self._cache = {name: np.zeros(shape, dtype) for name in names}
        self._q_scale = np.ones((branches, 1, 1, 1), np.float32)
        self._pos = self._classes = np.zeros(0, np.float32)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._pos, self._classes = pos, classes
        self._q_scale[:, 0, 0, 0] = q_scale

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        outputs, start = [], 0
        for window in split_window(x.shape[1], self.windows):
            outputs.append(self._run(x[:, start : start + window], position + start))
            start += window
        ab = np.concatenate(outputs, 1)[:, None]
        xb = ab[..., -self._D :]
        return (ab[..., : self._D] if self._nvp else np.zeros_like(xb)), xb

    def _run(self, x: Floats, position: int) -> Floats:
        window, end = x.shape[1], position + x.shape[1]
        inputs = {
            "x": np.repeat(x, self._branches, 0),
            "context": self._pos[position:end] + self._classes,
            "mask": self._mask(position, window),
            "q_scale": self._q_scale,
            **{f"past_{name}": array for name, array in self._cache.items()},
        }
        session = self._sessions[window]
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, inputs), strict=True))
        for name, array in self._cache.items():
            array[:, :, position:end] = found[f"new_{name}"]
        ab: Floats = found["ab"]
        return ab

    def _mask(self, position: int, window: int) -> Floats:
        """[1, 1, W, T + W]: cache rows before position are seen, new rows causally."""
        mask = np.full((window, self._T + window), self._masked, np.float32)
        mask[:, :position] = 0
        mask[:, self._T :][np.tril_indices(window)] = 0
        return mask[None, None]

    def close(self) -> None:
        self._cache.clear()


class _OnnxVjp:
    def __init__(self, session: onnxruntime.InferenceSession, options: Any) -> None:
        self._session, self._options = session, options
        self._names = [value.name for value in session.get_inputs()]

    def run(self, x: Floats, context: Floats, grad_xa: Floats, grad_xb: Floats) -> Floats:
        given = {"x": x, "context": context, "grad_xa": grad_xa, "grad_xb": grad_xb}
        inputs = {name: np.ascontiguousarray(given[name]) for name in self._names}
        grad: Floats = self._session.run(None, inputs, self._options)[0]
        return grad

    def close(self) -> None:
        del self._session


@register_engine("onnx")
def open_onnx(bundle: Bundle, options: EngineOptions) -> OnnxEngine:
    """The engine of ``--engine onnx``; device cpu, or one of the providers that are installed."""
    return OnnxEngine(bundle, options)
