"""The routes: requests become jobs of the queue, and their events become streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, Router

from ... import __version__
from ...runtime.bundle import EMBEDDED
from ...runtime.errors import UsageError
from ...runtime.schema import to_json
from .binary import MAX_PIXELS
from .body import MAX_BODY_BYTES, BodyError, read_request
from .guard import AsciiJSONResponse, Guard, Hosts, error_response
from .jobs import BusyError, Job, JobQueue, StoppingError
from .messages import (
    EVENT_NAMES,
    MAX_IMAGES,
    DecodeRequest,
    EncodeRequest,
    Event,
    GenerateRequest,
    InterpolateRequest,
    ScoreRequest,
    Target,
)
from .models import Models
from .static import WEB_APP, Files, not_built
from .work import bind

KEEP_ALIVE = 15.0  # seconds between two signs of life on a stream
DEFAULT_MAX_JOBS = 64

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One operation of the API, for the router and for openapi.json.

    Attributes:
        body: dataclass of the JSON body; an operation with one answers with a stream.
        errors: statuses beside those that every operation has.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    body: type[Target] | None = None
    open: bool = False
    errors: tuple[int, ...] = ()


OPERATIONS = (
    Operation("GET", "/api/status", "That this is flowship, and its version", open=True),
    Operation("GET", "/api/openapi.json", "This document", open=True),
    Operation("GET", "/api/bundles", "The bundles that are served, and the limits"),
    Operation("GET", "/api/jobs", "The queue"),
    Operation("DELETE", "/api/jobs/{id}", "Cancel a job", errors=(404,)),
    Operation("POST", "/api/generate", "Pictures from seeds", GenerateRequest),
    Operation("POST", "/api/decode", "Pictures from latents", DecodeRequest),
    Operation("POST", "/api/interpolate", "Pictures between two ends", InterpolateRequest),
    Operation("POST", "/api/encode", "The latent of a picture", EncodeRequest),
    Operation("POST", "/api/score", "The likelihood of a picture", ScoreRequest),
)


def create_app(
    models: Models,
    *,
    token: str,
    hosts: Hosts,
    max_jobs: int = DEFAULT_MAX_JOBS,
    web_app: Path = WEB_APP,
) -> Starlette:
    """The ASGI application; ``app.state.queue`` is its JobQueue.

    Args:
        models: stay the caller's, to be closed after the application has stopped.
        token: what clients must send to compute.
        hosts: Host headers that are answered.
        max_jobs: jobs at a time, those that wait included.
        web_app: folder of the built web app.
    """
    api = _Api(models, JobQueue(models, max_jobs), max_jobs)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await api.queue.close()

    operations = [
        Route(
            operation.path.removeprefix("/api"), api.handler(operation), methods=[operation.method]
        )
        for operation in OPERATIONS
    ]
    routes: list[BaseRoute] = [Mount("/api", Router(operations, redirect_slashes=False))]
    routes.append(Mount("/bundle", Files(directory=EMBEDDED, check_dir=False)))
    if (web_app / "index.html").is_file():
        routes.append(Mount("/", Files(directory=web_app, html=True)))
    else:
        routes.append(Route("/", _not_built))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers=_EXCEPTIONS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.queue = api.queue
    return app


class _Api:
    """What the operations do."""

    def __init__(self, models: Models, queue: JobQueue, max_jobs: int) -> None:
        self.queue, self._max_jobs = queue, max_jobs
        self._infos = {info.id: info for info in models.infos}

    def handler(self, operation: Operation) -> Handler:
        if operation.body:
            return self._computing(operation.path.rpartition("/")[2], operation.body)
        handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/api/status"): self._status,
            ("GET", "/api/openapi.json"): self._openapi,
            ("GET", "/api/bundles"): self._bundles,
            ("GET", "/api/jobs"): self._jobs,
            ("DELETE", "/api/jobs/{id}"): self._cancel,
        }
        return handlers[operation.method, operation.path]

    async def _status(self, _: Request) -> Response:
        return _json({"name": "flowship", "version": __version__, "token_required": True})

    async def _openapi(self, _: Request) -> Response:
        from .openapi import describe_api  # it imports this module's table

        return _json(describe_api())

    async def _bundles(self, _: Request) -> Response:
        limits = {
            "images": MAX_IMAGES,
            "pixels": MAX_PIXELS,
            "jobs": self._max_jobs,
            "body_bytes": MAX_BODY_BYTES,
        }
        bundles = [to_json(info) for info in self._infos.values()]
        return _json({"bundles": bundles, "limits": limits})

    async def _jobs(self, _: Request) -> Response:
        return _json({"jobs": [to_json(info) for info in self.queue.list()]})

    async def _cancel(self, request: Request) -> Response:
        name: str = request.path_params["id"]
        if self.queue.cancel(name):
            return Response(status_code=204)
        return error_response(404, "not_found", f"there is no job {name[:80]!r}")

    def _computing(self, name: str, body: type[Target]) -> Handler:
        async def compute(request: Request) -> Response:
            asked = await read_request(request, body)
            self._check_target(asked)
            job = Job(name, bind(asked), asked.bundle, asked.precision)
            self.queue.submit(job)
            return StreamingResponse(
                self._stream(job),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )

        return compute

    def _check_target(self, asked: Target) -> None:
        """Before it waits in the queue."""
        name = asked.bundle or next(iter(self._infos))
        if name not in self._infos:
            raise HTTPException(404, f"there is no bundle {name[:80]!r}: see GET /api/bundles")
        there = self._infos[name].precisions
        if asked.precision is not None and asked.precision not in there:
            known = ", ".join(there)
            raise UsageError(f"body.precision: there is no {asked.precision[:80]!r}, only {known}")

    async def _stream(self, job: Job) -> AsyncIterator[bytes]:
        async for event in self.queue.follow(job, KEEP_ALIVE):
            yield b": still here\n\n" if event is None else encode_event(event)


def encode_event(event: Event) -> bytes:
    """One server-sent event; JSON has no line breaks, so it is one line of data."""
    data = json.dumps(to_json(event), separators=(",", ":"), allow_nan=False)
    return f"event: {EVENT_NAMES[type(event)]}\ndata: {data}\n\n".encode()


# ---- answers ------------------------------------------------------------------------------------


def _json(value: object) -> Response:
    return AsciiJSONResponse(value, headers={"Cache-Control": "no-store"})


async def _not_built(_: Request) -> Response:
    return not_built()


async def _on_usage(_: Request, error: Exception) -> Response:
    return error_response(400, "usage", str(error))


async def _on_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, BodyError)
    # What was not read would be taken for the next request.
    return error_response(error.status, error.kind, str(error), Connection="close")


async def _on_busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    return error_response(503, "busy", str(error), Retry_After=str(error.retry_after))


async def _on_stopping(_: Request, error: Exception) -> Response:
    return error_response(503, "stopping", str(error))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: "not_found", 405: "method"}
    headers: Mapping[str, str] = error.headers or {}
    kind = kinds.get(error.status_code, "usage")
    return error_response(error.status_code, kind, str(error.detail), **headers)


_EXCEPTIONS = {
    UsageError: _on_usage,
    BodyError: _on_body,
    BusyError: _on_busy,
    StoppingError: _on_stopping,
    HTTPException: _on_http,
}
