"""A running ``flowship serve`` in this process, and a client without any rules of its own."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowship.apps.server.addresses import listen
from flowship.apps.server.app import create_app
from flowship.apps.server.guard import Hosts
from flowship.apps.server.jobs import JobQueue
from flowship.apps.server.models import EngineChoice, Models
from flowship.apps.server.server import Server
from flowship.apps.server.static import WEB_APP

TOKEN = "a-token-of-the-tests"
# A job that others wait for, or that is cancelled.
LONG = {"seeds": [str(i) for i in range(64)], "guidance": 1.0, "labels": [7], "preview": False}
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, kind, message."""
        error = self.json["error"]
        return self.status, error["kind"], error["message"]

    @property
    def events(self) -> list[tuple[str, Json]]:
        assert self.status == 200, self.body[:300]
        return parse_events(self.body)


@dataclass(frozen=True)
class Running:
    """Where it listens, and its queue."""

    port: int
    queue: JobQueue

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        token: str | None = TOKEN,
        **headers: str,
    ) -> Answer:
        """One request on a connection of its own; ``Sec_Fetch_Site`` becomes ``Sec-Fetch-Site``."""
        connection = self.connect()
        try:
            self.begin(connection, method, path, body, token=token, **headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def begin(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        token: str | None = TOKEN,
        **headers: str,
    ) -> None:
        """Send a request; the answer is the caller's to read."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, sent)

    def post(self, route: str, **body: Any) -> Answer:
        return self.ask("POST", f"/api/{route}", body)


def parse_events(body: bytes) -> list[tuple[str, Json]]:
    """Names and data of a whole stream."""
    found = []
    for block in body.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


@contextmanager
def running_server(
    *bundles: str | None,
    max_jobs: int = 64,
    web_app: Path = WEB_APP,
    port: int = 0,
    token: str = TOKEN,
    names: tuple[str, ...] = (),
) -> Iterator[Running]:
    """Serve until the block ends; everything it held is freed then. ``names`` are further hosts."""
    models = Models(bundles, EngineChoice(threads=1))
    ready = threading.Event()
    try:
        app = create_app(
            models,
            token=token,
            hosts=Hosts.for_address("127.0.0.1", names),
            max_jobs=max_jobs,
            web_app=web_app,
        )
        with listen("127.0.0.1", port) as listener:
            server = Server(app, ready.set)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                assert ready.wait(20)
                yield Running(listener.getsockname()[1], app.state.queue)
            finally:
                server.should_exit = True
                thread.join(30)
            assert not thread.is_alive()
    finally:
        models.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def named(events: list[tuple[str, Any]], name: str) -> list[Any]:
    return [data for found, data in events if found == name]


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def generating(server: Running, body: Any) -> tuple[Any, Any]:
    """A stream that is open: its connection and its answer."""
    connection = server.connect()
    server.begin(connection, "POST", "/api/generate", body)
    return connection, connection.getresponse()
