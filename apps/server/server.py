"""uvicorn, told to say where it is and to end streams before it waits for them."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

MAX_CONNECTIONS = 512
GRACE_SECONDS = 5  # for open connections, after their jobs were told to end


class Server(uvicorn.Server):
    """Serves an application of create_app(), without any log.

    Args:
        announce: called once the server answers.
    """

    def __init__(self, app: Starlette, announce: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # pure Python, with a bound on the size of headers
                ws="none",
                lifespan="on",
                log_config=None,  # what people ask for is nobody's business
                log_level="critical",
                access_log=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._app, self._announce = app, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.queue.stop()
        await super().shutdown(sockets)
