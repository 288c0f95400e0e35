"""Reading a JSON body with bounds on its size and time, into a request dataclass."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from ...runtime.errors import BundleError, UsageError
from ...runtime.schema import from_json, parse_json

MAX_BODY_BYTES = 8 << 20
BODY_SECONDS = 30.0

T = TypeVar("T")


class BodyError(Exception):
    """A body that is not read, with the status and kind of the answer."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


async def read_request(request: Request, kind: type[T]) -> T:
    """The body as the dataclass ``kind``.

    Raises:
        BodyError: too large, too slow, or not declared as JSON.
        UsageError: not JSON, an unknown key, or a wrong value; the message has its path.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise BodyError(415, "media_type", "the body must be application/json")
    try:
        data = await asyncio.wait_for(_read(request), BODY_SECONDS)
    except (asyncio.TimeoutError, TimeoutError) as error:
        message = f"the body did not arrive in {BODY_SECONDS:g} s"
        raise BodyError(408, "timeout", message) from error
    except ClientDisconnect as error:
        raise BodyError(400, "usage", "the connection was closed") from error
    return parse_request(data, kind)


def parse_request(data: bytes, kind: type[T]) -> T:
    """A body's bytes as the dataclass ``kind``; UsageError as in read_request()."""
    try:
        value: Any = parse_json(data.decode(), "the body")
        found = from_json(kind, value, "body")
        _refuse_unknown(found, value, "body")
        return found
    except UnicodeDecodeError as error:
        raise UsageError(f"the body is not UTF-8: {error.reason}") from error
    except BundleError as error:
        raise UsageError(str(error)) from error


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 12 or int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> BodyError:
    return BodyError(413, "too_large", f"the body is above {MAX_BODY_BYTES:,} bytes")


def _refuse_unknown(made: Any, value: Any, path: str) -> None:
    """A key typed wrong must not become a default in silence."""
    names = {field.name for field in dataclasses.fields(made)}
    for key in value:
        if key not in names:
            known = ", ".join(sorted(names))
            raise UsageError(f"{path}: unknown key {key[:80]!r}: there are {known}")
        inner = getattr(made, key)
        if dataclasses.is_dataclass(inner):
            _refuse_unknown(inner, value[key], f"{path}.{key}")
