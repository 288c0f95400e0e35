"""Connections that ask for nothing are closed, so that they cannot keep others out."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0  # for the head of a request, from the connection or its first byte


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol with a bound on the time in which a request must arrive.

    uvicorn's own timeout begins after an answer: a connection that never asks would stay forever.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # as in uvicorn: asyncio knows more transports
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Run the clock while the head of a request is awaited; single bytes do not stop it."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
