"""Types of ML programs, and how values of them are stored and computed with.

Floating-point values are computed in float32. A tensor that the program declares float16 is held
as a float32 array of float16 numbers: rounded when it is made, never converted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import BundleError
from ..wire import Buffer, Message

Array = npt.NDArray[Any]

# 1 GiB as float32. The largest tensors of published models are far below: 37.7M weights of a linear
# layer and 50M attention scores in STARFlow.
MAX_ELEMENTS = 1 << 28
MAX_RANK = 16  # Core ML's own limit is 5; numpy's is 32


@dataclass(frozen=True)
class DType:
    """An element type.

    Attributes:
        name: MIL's name.
        bits: of one value in a file; values of less than 8 bits are packed, lowest bits first.
        storage: numpy type of one unpacked value in a file.
        blob: its code in a weights file; None where it cannot be there.
    """

    name: str
    bits: int
    storage: np.dtype[Any]
    blob: int | None

    @property
    def compute(self) -> np.dtype[Any]:
        """The numpy type that values are held in."""
        return FLOAT32 if self.name == "fp16" else self.storage.newbyteorder("=")

    def nbytes(self, count: int) -> int:
        return (count * self.bits + 7) // 8


FLOAT32 = np.dtype(np.float32)
STRING = DType("string", 0, np.dtype(object), None)
FP16 = DType("fp16", 16, np.dtype("<f2"), 1)

# MIL.proto, enum DataType; codes of weights files: coremltools, MILBlob/Blob/BlobDataType.hpp
DTYPES: dict[int, DType] = {
    1: DType("bool", 8, np.dtype(np.bool_), None),
    2: STRING,
    10: FP16,
    11: DType("fp32", 32, np.dtype("<f4"), 2),
    12: DType("fp64", 64, np.dtype("<f8"), None),
    21: DType("int8", 8, np.dtype("i1"), 4),
    22: DType("int16", 16, np.dtype("<i2"), 6),
    23: DType("int32", 32, np.dtype("<i4"), 14),
    24: DType("int64", 64, np.dtype("<i8"), None),
    25: DType("int4", 4, np.dtype("i1"), 8),
    31: DType("uint8", 8, np.dtype("u1"), 3),
    32: DType("uint16", 16, np.dtype("<u2"), 7),
    33: DType("uint32", 32, np.dtype("<u4"), 15),
    34: DType("uint64", 64, np.dtype("<u8"), None),
    35: DType("uint4", 4, np.dtype("u1"), 11),
    36: DType("uint2", 2, np.dtype("u1"), 10),
    37: DType("uint1", 1, np.dtype("u1"), 9),
    38: DType("uint6", 6, np.dtype("u1"), 13),
    39: DType("uint3", 3, np.dtype("u1"), 12),
}


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; None is a dimension known only at run time."""

    dtype: DType
    shape: tuple[int | None, ...]
    is_state: bool = False

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape where every dimension must be known (states, constants)."""
        shape = tuple(n for n in self.shape if n is not None)
        if len(shape) != len(self.shape):
            raise BundleError(f"a state or constant has the unknown shape {self}")
        return shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        if shape == self.shape:
            return True
        known = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(a in (None, b) for a, b in known)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join('?' if n is None else str(n) for n in self.shape)}]"


def parse_type(message: Message, where: str) -> TensorType:
    """A ValueType message: a tensor or a state that holds one.

    Raises:
        BundleError: another kind of type, an unknown element type, or an absurd shape.
    """
    is_state = 5 in message
    message = message.message(5).message(1) if is_state else message
    if 1 not in message:
        raise BundleError(f"{where}: a value is neither a tensor nor a state")
    tensor = message.message(1)
    dtype = DTYPES.get(tensor.number(1))
    if dtype is None:
        raise BundleError(f"{where}: unknown element type {tensor.number(1)}")
    dimensions = tensor.messages(3)
    shape = tuple(d.message(1).number(1) if 1 in d else None for d in dimensions)
    if len(shape) > MAX_RANK or prod(n for n in shape if n is not None) > MAX_ELEMENTS:
        raise BundleError(
            f"{where}: a tensor of shape {shape} is larger than the {MAX_ELEMENTS} elements that "
            "this interpreter allows"
        )
    return TensorType(dtype, shape, is_state)


def from_storage(raw: Buffer, kind: TensorType, where: str) -> Array:
    """Values as they lie in a file to the array that is computed with.

    Raises:
        BundleError: too few or too many bytes for the shape.
    """
    shape = kind.static_shape
    count, dtype = prod(shape), kind.dtype
    if len(raw) != dtype.nbytes(count):
        raise BundleError(
            f"{where}: a constant {kind} needs {dtype.nbytes(count)} bytes, the file has {len(raw)}"
        )
    if dtype.bits < 8:
        return unpack_bits(np.frombuffer(raw, np.uint8), count, dtype).reshape(shape)
    array = np.frombuffer(raw, dtype.storage).reshape(shape)
    return array.astype(dtype.compute, copy=False)


def unpack_bits(packed: npt.NDArray[np.uint8], count: int, dtype: DType) -> Array:
    """[count] values of 1 to 7 bits, which lie one after the other, lowest bits first."""
    if dtype.bits == 4:  # much faster
        halves = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:count]
        return _extend_sign(halves, dtype)
    bits = np.unpackbits(packed, count=count * dtype.bits, bitorder="little")
    values: Array = np.packbits(bits.reshape(count, dtype.bits), axis=1, bitorder="little")[:, 0]
    return _extend_sign(values, dtype)


def _extend_sign(values: Array, dtype: DType) -> Array:
    """uint8 with the lowest bits set to the storage type."""
    if dtype.storage.kind != "i":
        return values
    unused = 8 - dtype.bits  # shifting up and down again extends the sign
    signed: Array = (values << unused).view(np.int8) >> unused
    return signed


def round_half(array: Array) -> Array:
    """To float16 and back to float32: what a float16 program keeps of a result."""
    return array.astype(np.float16).astype(np.float32)
