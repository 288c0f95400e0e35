"""uvicorn, told to say where it is, to end streams before it waits for them, and to have bounds."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from .connections import ImpatientProtocol
from .guard import SECURITY_HEADERS, error_response

MAX_CONNECTIONS = 512  # with more, requests are answered by 503 busy
GRACE_SECONDS = 5  # for open connections, after their jobs were told to end


class Server(uvicorn.Server):
    """Serves an application of create_app(), without any log.

    Args:
        announce: called once the server answers.
    """

    def __init__(self, app: Starlette, announce: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                self._bounded,
                interface="asgi3",
                http=ImpatientProtocol,  # h11: pure Python, with a bound on the size of headers
                ws="none",
                lifespan="on",
                log_config=None,  # what people ask for is nobody's business
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._app, self._announce = app, announce

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; uvicorn's own limit would answer in plain text."""
        count = len(self.server_state.connections)
        if scope["type"] != "http" or count <= MAX_CONNECTIONS:
            return await self._app(scope, receive, send)
        answer = error_response(
            503, "busy", f"{count} connections are open: try again in 1 s", Retry_After="1"
        )
        answer.headers.update(SECURITY_HEADERS)
        await answer(scope, receive, send)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.queue.stop()
        await super().shutdown(sockets)
