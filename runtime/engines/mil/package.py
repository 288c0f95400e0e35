"""A .mlpackage on disk: its manifest, its model and its weights file, read with suspicion."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError, EngineError
from ...safe_paths import check_relative
from ..wire import Buffer, Message
from .program import Function, parse_function
from .types import Array, TensorType, from_storage

MAX_JSON_BYTES, MAX_MODEL_BYTES = 1 << 20, 1 << 28
_RECORD = struct.Struct("<IIQQQ")  # sentinel, element type, bytes, offset, unused bits at the end
_SENTINEL = 0xDEADBEEF


class Package:
    """An ML program with one or more functions.

    Functions are parsed when they are asked for; constants are read once, whichever functions share
    them. Nothing outside the package folder is ever opened.

    Args:
        path: the ``.mlpackage`` folder.
        called: how errors name it; by default its folder's name.

    Raises:
        BundleError: it is incomplete, damaged or not an ML program.
    """

    def __init__(self, path: str | Path, *, called: str | None = None) -> None:
        self.path = Path(path)
        self.called = self._where = called or self.path.name
        self._model = self._inside("Data", self._root_model())
        model = Message(_read(self._model, MAX_MODEL_BYTES), f"{self._where}/{self._model.name}")
        if 502 not in model:
            raise BundleError(f"{self._where}: not an ML program (perhaps an older neural network)")
        self.specification_version = model.number(1)
        self._functions = model.message(502).map(2)
        self.default = model.message(2).text(21) or "main"
        self._weights: dict[str, Buffer] = {}
        self._constants: dict[tuple[str, int, TensorType], Array] = {}
        self._unpacked: dict[Hashable, Array] = {}

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions in the order of the file."""
        return tuple(self._functions)

    def function(self, name: str) -> Function:
        """Parse a function.

        Raises:
            EngineError: there is none of that name.
            BundleError: it is damaged.
        """
        if name not in self._functions:
            raise EngineError(
                f"{self._where} has no function {name!r}: it has {', '.join(self.functions)}"
            )
        return parse_function(self._functions[name], name, f"{self._where}: {name}", self.constant)

    def constant(self, file: str, offset: int, kind: TensorType) -> Array:
        """A constant of the weights file; read-only, and the same array at every call.

        Raises:
            BundleError: there is no record of this type and size at the offset.
        """
        key = (file, offset, kind)
        if key not in self._constants:
            array = from_storage(self._record(file, offset, kind), kind, f"{self._where}/{file}")
            array.flags.writeable = False
            self._constants[key] = array
        return self._constants[key]

    def unpacked(self, key: Hashable, unpack: Callable[[], Array]) -> Array:
        """What ``unpack`` makes of compressed constants; read-only, once for all functions."""
        if key not in self._unpacked:
            array = unpack()
            array.flags.writeable = False
            self._unpacked[key] = array
        return self._unpacked[key]

    @property
    def decoded_bytes(self) -> int:
        """Memory of the constants that have been read so far."""
        return sum(a.nbytes for a in (*self._constants.values(), *self._unpacked.values()))

    def _record(self, file: str, offset: int, kind: TensorType) -> Buffer:
        where = f"{self._where}/{file}"
        data = self._open_weights(file)
        if offset + _RECORD.size > len(data):
            raise BundleError(
                f"{where}: a constant at offset {offset} is beyond the file's {len(data)} bytes"
            )
        sentinel, dtype, size, start, _ = _RECORD.unpack_from(data, offset)
        if sentinel != _SENTINEL:
            raise BundleError(f"{where}: there is no constant at offset {offset}")
        if dtype != kind.dtype.blob:
            raise BundleError(
                f"{where}: the constant at offset {offset} has the element type code {dtype}, the "
                f"program expects {kind.dtype.blob} ({kind.dtype.name})"
            )
        if start + size > len(data):
            raise BundleError(
                f"{where}: the constant at offset {offset} ends at {start + size}, beyond the "
                f"file's {len(data)} bytes"
            )
        return data[start : start + size]

    def _open_weights(self, file: str) -> Buffer:
        if file not in self._weights:
            prefix = "@model_path/"
            if not file.startswith(prefix):
                raise BundleError(f"{self._where}: weights file {file!r} is not in the package")
            folder = self._model.parent.relative_to(self.path)
            path = self._inside(folder, file.removeprefix(prefix))
            mapped: Any = np.memmap(path, np.uint8, "r") if path.stat().st_size else b""
            self._weights[file] = memoryview(mapped)
        return self._weights[file]

    def _root_model(self) -> str:
        """Path of the model below Data, as Manifest.json says."""
        where = f"{self._where}/Manifest.json"
        try:
            content: Any = json.loads(bytes(_read(self.path / "Manifest.json", MAX_JSON_BYTES)))
            path = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{where} names no root model: {error!r}") from error
        if not isinstance(path, str):
            raise BundleError(f"{where}: the path of the root model is {path!r}, expected a string")
        return path

    def _inside(self, base: str | Path, relative: str) -> Path:
        """``base / relative`` where it is a file inside the package."""
        check_relative(relative)
        path = self.path / base / relative
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{self._where}: the path {relative!r} leaves the package")
        if not path.is_file():
            raise BundleError(f"{self._where}: the file {relative!r} is missing")
        return path


def _read(path: Path, limit: int) -> Buffer:
    try:
        size = path.stat().st_size
        if size > limit:
            raise BundleError(f"{path}: {size} bytes, expected at most {limit}")
        return memoryview(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
