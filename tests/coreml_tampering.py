"""Changes single numbers of a Core ML package inside a bundle, and makes the hashes true again."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowship.runtime.engines.mil import Package
from flowship.runtime.engines.mil.program import Function, Literal
from flowship.runtime.engines.mil.types import TensorType, from_storage
from flowship.runtime.hashing import sha256_of
from flowship.runtime.manifest import MANIFEST

Array = npt.NDArray[Any]
_RECORD = struct.Struct("<IIQQQ")  # as in flowship.runtime.engines.mil.package


def weights_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def declare(bundle: Path) -> None:
    """Write the sizes and hashes of all files into the manifest, new files included."""
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    golden = {f"golden/{p.name}" for p in (bundle / "golden").glob("*")}
    names = {*manifest["files"], *golden}
    manifest["files"] = {
        name: {"bytes": (bundle / name).stat().st_size, "sha256": sha256_of(bundle / name)}
        for name in sorted(names)
    }
    path.write_text(json.dumps(manifest))


@dataclass(frozen=True)
class Stored:
    """A constant in the weights file: its type, and where its bytes are."""

    file: Path
    start: int
    kind: TensorType

    def read(self) -> Array:
        raw = self.file.read_bytes()[self.start : self.start + self._nbytes]
        return from_storage(memoryview(raw), self.kind, "a test")

    @property
    def _nbytes(self) -> int:
        return self.kind.dtype.nbytes(prod(self.kind.static_shape))

    def _write(self, raw: bytes) -> None:
        content = bytearray(self.file.read_bytes())
        content[self.start : self.start + len(raw)] = raw
        self.file.write_bytes(content)

    def flip_bit(self, index: int, bit: int) -> None:
        """Flip one bit of the value number ``index``; values lie lowest bits first."""
        place = index * self.kind.dtype.bits + bit
        raw = bytearray(self.file.read_bytes()[self.start : self.start + self._nbytes])
        raw[place // 8] ^= 1 << place % 8
        self._write(bytes(raw))

    def multiply(self, index: int, factor: float) -> None:
        """Multiply one float16 value."""
        assert self.kind.dtype.name == "fp16"
        values = self.read().ravel().astype(np.float16)
        values[index] *= np.float16(factor)
        self._write(values.astype("<f2").tobytes())


class _Places(Package):
    """A package that remembers where its constants came from."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.places: dict[int, Stored] = {}

    def constant(self, file: str, offset: int, kind: TensorType) -> Array:
        array = super().constant(file, offset, kind)
        where = weights_file(self.path)
        start = _RECORD.unpack_from(where.read_bytes(), offset)[3]
        self.places[id(array)] = Stored(where, start, kind)
        return array


def quantized_matrices(package: Path) -> list[dict[str, Stored]]:
    """Parameters of every ``constexpr`` operator of step1 that lie in the weights file."""
    opened = _Places(package)
    function = opened.function("step1")
    found = []
    for operation in function.operations:
        if operation.kind.startswith("constexpr_"):
            values = {key: _value(function, v[0]) for key, v in operation.inputs.items()}
            places = {key: opened.places.get(id(value)) for key, value in values.items()}
            found.append({key: place for key, place in places.items() if place})
    return found


def _value(function: Function, argument: Any) -> Any:
    if isinstance(argument, Literal):
        return argument.value
    consts = (o for o in function.operations if o.kind == "const")
    return next(o.attributes["val"] for o in consts if o.outputs[0].name == argument)


def edit_functions(package: Path, edit: Callable[[str, Any], None]) -> None:
    """Change every function (name, MIL_pb2.Function message) with coremltools' protobuf."""
    from flowship.runtime.engines.coremltools_import import import_coremltools

    proto = import_coremltools("a test").proto.Model_pb2.Model()
    proto.ParseFromString(model_file(package).read_bytes())
    for name, function in proto.mlProgram.functions.items():
        edit(name, function)
    model_file(package).write_bytes(proto.SerializeToString())
