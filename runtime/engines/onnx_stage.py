"""A block in ONNX Runtime with everything bound once and nothing allocated per call."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..spec import ARBlock
from .base import Floats
from .onnx_forms import cache_capacity, cache_dtype, run_window

if TYPE_CHECKING:
    import onnxruntime

    from .onnx import OnnxEngine

CONTEXT_BYTES = 16 << 20  # position + class rows of all patches are added up front below this
# Activations of such windows take more memory than what allocating them again takes time.
SHRINKING_WINDOW = 256


class _Binding:
    """Input and output buffers of one window length, bound to the session once."""

    def __init__(self, stage: GqaStage, window: int) -> None:
        branches, N = stage.rows
        D = stage.patch_dim
        # Rows past the window are thrown away.
        self.rows = rows = run_window(window, stage.form, 2 if stage.folded else 1)
        # Folded, a patch's branches lie side by side; the host sees [branches, N, W, ...] of both.
        shape = (rows, 2) if stage.folded else (branches * N, rows)
        x, context, output = (
            np.zeros((*shape, size), np.float32)
            for size in (D, stage.block.channels, stage.output_dim)
        )
        self.output = output

        def seen(array: Floats) -> Floats:
            folded = array.swapaxes(0, 1)[:, None]
            whole: Floats = folded if stage.folded else array.reshape(branches, N, rows, -1)
            return whole[:, :, :window]

        self.x, self.context = seen(x), seen(context)
        split = seen(output)
        self.xb = split[..., -D:]
        self.xa = split[..., :D] if stage.output_dim == 2 * D else np.zeros_like(self.xb)
        self._inputs = {
            "x": x,
            "context": context,
            "seqlens_k": stage.seqlens_k,
            "total_len": stage.total_len,
        }
        if stage.folded:
            self._inputs["q_scale"] = stage.q_scale
        self._stage, self._session = stage, stage.session
        self._options = stage.engine.run_options(shrink=window >= SHRINKING_WINDOW)
        self.io = stage.session.io_binding()
        for name, value in stage.cache_values.items():
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


class GqaStage:
    """A block in the ``gqa`` form: past and present share one buffer.

    ``folded``: one guided picture, whose branches are heads of one sequence; else the branches and
    pictures are rows.
    """

    windows: tuple[int, ...] = ()

    def __init__(
        self,
        engine: OnnxEngine,
        session: onnxruntime.InferenceSession,
        form: str,
        block: ARBlock,
        rows: tuple[int, int],
        folded: bool,
    ) -> None:
        self.session, self.form, self.block = session, form, block
        self.patch_dim = patch_dim = engine.image.patch_dim
        self.rows, self.folded, self.ort, self.engine = rows, folded, engine.ort, engine
        self.on_cpu = engine.info.device == "cpu"
        self.output_dim = patch_dim if block.scale == "none" else 2 * patch_dim
        cache_rows = 1 if folded else rows[0] * rows[1]
        # seqlens_k of each row, then total_len, which is larger by one: written together
        self._ends = np.zeros(cache_rows + 1, np.int32)
        self._ends_from_total = np.append(np.full(cache_rows, -1, np.int32), np.int32(0))
        self.seqlens_k, self.total_len = self._ends[:-1], self._ends[-1:].reshape(())
        self.q_scale = np.ones(2 * block.channels, np.float32)
        capacity = cache_capacity(engine.image.num_patches, form)
        heads = block.num_heads * (2 if folded else 1)
        shape = (cache_rows, heads, capacity, block.head_dim)
        dtype = cache_dtype(engine.info.precision, form)
        # zeros: a NaN behind the mask would still poison
        self.cache_values = {
            f"{n}_{i}": self._cache_value(np.zeros(shape, dtype))
            for i in range(block.num_layers)
            for n in "kv"
        }
        self.cache_bytes = 2 * block.num_layers * prod(shape) * dtype.itemsize
        self._bindings: dict[int, _Binding] = {}
        self._pos = self._classes = np.zeros(0, np.float32)
        self._context: Floats | None = None
        self._closed = False

    def _cache_value(self, array: npt.NDArray[Any]) -> Any:
        if self.on_cpu:
            return self.ort.OrtValue.ortvalue_from_numpy(array)
        return self.ort.OrtValue.ortvalue_from_numpy(array, self.engine.info.device, 0)

    def begin(self, pos: Floats, classes: Floats, q_scale: Floats) -> None:
        self._pos, self._classes = pos, classes[:, :, None]
        rows = classes.shape[0] * classes.shape[1]
        self._context = pos + self._classes if pos.nbytes * rows <= CONTEXT_BYTES else None
        if self.folded:
            self.q_scale[:] = q_scale.repeat(self.block.channels)

    def step(self, x: Floats, position: int) -> tuple[Floats, Floats]:
        window = x.shape[1]
        binding = self._bindings.get(window)
        if binding is None:
            binding = self._bindings[window] = _Binding(self, window)
        end = position + window
        binding.x[:] = x
        if self._context is not None:
            binding.context[:] = self._context[:, :, position:end]
        else:
            np.add(self._pos[position:end], self._classes, out=binding.context)
        np.add(self._ends_from_total, position + binding.rows, out=self._ends)
        binding.run()
        return binding.xa, binding.xb

    def opened_again(self) -> GqaStage:
        """The same buffers for the next picture: who closed this one cannot close that one too."""
        opened = copy(self)
        opened._closed = False
        return opened

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self.engine.keep_idle(self):
            self.release()

    def release(self) -> None:
        """Free the buffers and let go of the session, whoever still holds this stage."""
        self._bindings.clear()  # they refer to the stage: only the garbage collector would find it
        self.cache_values.clear()
        del self.session
