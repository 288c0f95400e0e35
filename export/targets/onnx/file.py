"""A small builder for ONNX graphs: nodes with automatic names, shared external weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 10  # LayerNormalization 17, Gelu 20
Array = npt.NDArray[Any]


class WeightsFile:
    """One external data file that several graphs of a block share.

    Weights are appended in the order in which they are added and start at multiples of 4096 bytes
    (64 for small ones), so that a reader can map each of them.
    """

    def __init__(self, path: Path, location: str) -> None:
        self._file = open(path, "xb")  # noqa: SIM115 (closed by close())
        self.location = location
        self.index: dict[str, tuple[int, int, tuple[int, ...], int]] = {}

    def add(self, name: str, array: Array) -> None:
        data = np.ascontiguousarray(array)
        align = 4096 if data.nbytes >= 65536 else 64
        self._file.write(b"\0" * (-self._file.tell() % align))
        kind = helper.np_dtype_to_tensor_dtype(data.dtype)
        self.index[name] = (self._file.tell(), data.nbytes, data.shape, kind)
        self._file.write(data.data.cast("B"))

    def view(self, name: str, of: str, kind: int, shape: tuple[int, ...]) -> None:
        """The same bytes under another name, type and shape."""
        offset, length, _, _ = self.index[of]
        self.index[name] = (offset, length, shape, kind)

    def rows(self, name: str, of: str, start: int, count: int) -> None:
        """Some rows (the first dimension) under a name of their own."""
        offset, length, (rows, *rest), kind = self.index[of]
        row = length // rows
        self.index[name] = (offset + start * row, count * row, (count, *rest), kind)

    def tensor(self, name: str) -> TensorProto:
        """An initializer that points into the file."""
        offset, length, shape, kind = self.index[name]
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def close(self) -> None:
        self._file.close()


class GraphFile:
    """Nodes and constants of one model. Strings are the names of values."""

    def __init__(self, weights: WeightsFile) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._used: dict[str, None] = {}

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Declare ``value`` as an output; the node that makes it is renamed, nothing is copied."""
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        for node in self.nodes:
            for names in (node.output, node.input):
                for i, old in enumerate(names):
                    if old == value:
                        names[i] = name

    def op(self, kind: str, /, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, count: int, /, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with ``count`` outputs."""
        number = len(self.nodes)
        outputs = [f"v{number}" if i == 0 else f"v{number}_{i}" for i in range(count)]
        node = helper.make_node(
            kind, inputs, outputs, name=f"n{number}", domain=domain, **attributes
        )
        self.nodes.append(node)
        return outputs

    def constant(self, value: Any, dtype: npt.DTypeLike) -> str:
        """A small constant stored in the graph itself; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = f"c_{array.dtype}_{array.shape}_{array.tobytes().hex()}"
        name = f"c{len(self._constants)}"
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, name)
        return self._constants[key].name

    def int64(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def code(self, value: int, kind: int) -> str:
        """A small unsigned scalar of a type that numpy may not have (uint4)."""
        name = f"code_{kind}_{value}"
        self._constants[name] = helper.make_tensor(name, kind, (), [value])
        return name

    def weight(self, name: str) -> str:
        """A tensor of the weights file."""
        self._used[name] = None
        return name

    def model(self, name: str, opset: int = OPSET) -> onnx.ModelProto:
        initializers = [self.weights.tensor(n) for n in self._used]
        initializers += self._constants.values()
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, initializers)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="flowship"
        )
