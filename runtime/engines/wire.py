"""The protobuf wire format, as much of it as model files need; every length is checked."""

from __future__ import annotations

from ..errors import BundleError

Buffer = memoryview
EMPTY = memoryview(b"")


class Message:
    """One level of a protobuf message: the raw values of each field number.

    Nested messages stay bytes until they are asked for, so nothing is decoded that is not used.

    Args:
        data: the encoded message.
        where: the file it is from, for errors.

    Raises:
        BundleError: truncated, or not protobuf.
    """

    def __init__(self, data: Buffer, where: str) -> None:
        self._where = where
        self._fields: dict[int, list[int | Buffer]] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at, where)
            value, at = _value(data, at, tag & 7, where)
            self._fields.setdefault(tag >> 3, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def number(self, field: int, default: int = 0) -> int:
        """A varint; the last one counts when a field is repeated."""
        value = self._fields.get(field, [default])[-1]
        if not isinstance(value, int):
            raise BundleError(f"{self._where}: field {field} is not a number")
        return value

    def raw(self, field: int) -> Buffer:
        """Bytes; empty where the field is missing."""
        return self.raws(field)[-1] if field in self else EMPTY

    def raws(self, field: int) -> list[Buffer]:
        """All values of a repeated field of bytes, strings or messages."""
        return [self._bytes(field, value) for value in self._fields.get(field, [])]

    def text(self, field: int) -> str:
        return self._decode(self.raw(field))

    def texts(self, field: int) -> list[str]:
        return [self._decode(raw) for raw in self.raws(field)]

    def message(self, field: int) -> Message:
        return Message(self.raw(field), self._where)

    def messages(self, field: int) -> list[Message]:
        return [Message(raw, self._where) for raw in self.raws(field)]

    def map(self, field: int) -> dict[str, Message]:
        """A map from strings to messages."""
        return {entry.text(1): entry.message(2) for entry in self.messages(field)}

    def integers(self, field: int) -> list[int]:
        """Repeated signed integers, packed or not."""
        found: list[int] = []
        for value in self._fields.get(field, []):
            if isinstance(value, int):
                found.append(value)
                continue
            at = 0
            while at < len(value):
                number, at = _varint(value, at, self._where)
                found.append(number)
        return [n - (1 << 64) if n >> 63 else n for n in found]

    def _bytes(self, field: int, value: int | Buffer) -> Buffer:
        if isinstance(value, int):
            raise BundleError(f"{self._where}: field {field} is a number, expected bytes")
        return value

    def _decode(self, raw: Buffer) -> str:
        try:
            return bytes(raw).decode()
        except UnicodeDecodeError as error:
            raise BundleError(f"{self._where}: a name is not UTF-8: {error}") from error


def _varint(data: Buffer, at: int, where: str) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise BundleError(f"{where}: truncated inside a number")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise BundleError(f"{where}: a number is longer than 64 bits, this is not such a model")


def _value(data: Buffer, at: int, wire_type: int, where: str) -> tuple[int | Buffer, int]:
    if wire_type == 0:
        return _varint(data, at, where)
    if wire_type == 2:
        length, at = _varint(data, at, where)
    elif wire_type in (1, 5):
        length = 8 if wire_type == 1 else 4
    else:
        raise BundleError(f"{where}: wire type {wire_type}, this is not such a model")
    if length > len(data) - at:
        raise BundleError(f"{where}: truncated, {length} bytes expected and {len(data) - at} left")
    return data[at : at + length], at + length
