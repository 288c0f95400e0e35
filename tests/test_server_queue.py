"""The queue of ``flowship serve``: order, cancelling, back pressure, connections."""

from __future__ import annotations

import base64
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from laptop_server import LONG, Running, generating, named, parse_events, running_server, until

from flowship.apps.server import connections
from flowship.apps.server import server as server_module
from flowship.runtime import Flow


def test_cancel_order_and_back_pressure() -> None:
    with running_server(max_jobs=3) as server:
        streams = [generating(server, LONG), generating(server, {**LONG, "seeds": ["1"]})]
        streams.append(generating(server, {**LONG, "seeds": ["2"]}))
        jobs = server.ask("GET", "/api/jobs").json["jobs"]
        assert [job["position"] for job in jobs] == [0, 0, 1]
        assert [job["state"] for job in jobs] == ["running", "waiting", "waiting"]
        busy = server.post("generate", seeds=["3"])
        assert busy.error[:2] == (503, "busy") and int(busy.headers["retry-after"]) >= 1
        # A waiting job leaves the queue, the running one stops, and the last one runs.
        assert server.ask("DELETE", f"/api/jobs/{jobs[1]['id']}").status == 204
        assert server.ask("DELETE", f"/api/jobs/{jobs[0]['id']}").status == 204
        ends = [parse_events(answer.read())[-1][0] for _, answer in streams]
        assert ends == ["cancelled", "cancelled", "done"]
        for connection, _ in streams:
            connection.close()
        until(lambda: server.ask("GET", "/api/jobs").json["jobs"] == [])


def test_a_reader_that_leaves_cancels_its_job(server: Running) -> None:
    connection, answer = generating(server, LONG)
    assert answer.readline().startswith(b"event: queued")
    answer.close()
    connection.close()
    until(lambda: server.ask("GET", "/api/jobs").json["jobs"] == [])
    assert server.post("generate", seeds=["1"]).events[-1][0] == "done"


def test_stopping_ends_streams() -> None:
    with running_server() as server:
        connection, answer = generating(server, LONG)
        answer.readline()
    name, data = parse_events(b"event: queued\n" + answer.read())[-1]
    assert (name, data["kind"]) == ("error", "stopping")
    connection.close()


def test_connections_that_ask_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """While there are too many, others get the documented error; then they are closed."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 3600.0)
    with running_server() as server:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(_idle(server))
            until(lambda: server.ask("GET", "/api/status").status == 503)
            busy = server.ask("GET", "/api/status")
            assert busy.error[:2] == (503, "busy") and busy.headers["retry-after"] == "1"
            assert busy.headers["content-security-policy"]
        monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
        with _idle(server) as silent, _idle(server) as trickling:
            with suppress(ConnectionError):  # it is closed already
                trickling.sendall(b"GET /api/status HTTP/1.1\r\n")
            for connection in (silent, trickling):
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b"", "the server did not close it"
        monkeypatch.setattr(connections, "REQUEST_SECONDS", 3600.0)
        until(lambda: server.ask("GET", "/api/status").status == 200)


def _idle(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=600)


def test_many_clients() -> None:
    """64 clients with 1 or 2 requests each: nothing lost, order kept, memory bounded."""
    with Flow.open(threads=1) as flow:
        expected = {seed: flow.generate(seed=seed).pictures()[0].tobytes() for seed in range(8)}
    with running_server(max_jobs=48) as server:
        wrong: list[str] = []
        most, lock = [0], threading.Lock()

        def client(number: int) -> None:
            for turn in range(1 + (number % 4 == 0)):
                seed = (number + turn) % 8
                while True:
                    answer = server.post("generate", seeds=[str(seed)], preview=False)
                    if answer.status == 200:
                        break
                    if answer.error[:2] != (503, "busy"):
                        wrong.append(str(answer))
                    time.sleep(0.2)  # a test need not be as patient as Retry-After
                events = answer.events
                positions = [data["position"] for data in named(events, "queued")]
                if positions != sorted(positions, reverse=True) or events[-1][0] != "done":
                    wrong.append(f"{events}")
                pixels = base64.b64decode(named(events, "picture")[0]["pixels"]["data"])
                if pixels != expected[seed]:
                    wrong.append(f"seed {seed} has other pixels")
                with lock:
                    most[0] = max(most[0], len(server.queue.list()))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        assert most[0] <= 48
        until(lambda: server.queue.list() == ())
