"""Who is let in by ``flowship serve``: tokens, hosts, and pages of other sites."""

from __future__ import annotations

from typing import Any

import pytest
from laptop_server import TOKEN, Running

from flowship.apps.server.app import OPERATIONS
from flowship.apps.server.guard import Hosts


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "é"])
def test_token(server: Running, token: str | None) -> None:
    for operation in OPERATIONS:
        path = operation.path.replace("{id}", "x")
        answer = server.ask(operation.method, path, token=token)
        if operation.open:
            assert answer.status == 200
        else:
            assert answer.error[:2] == (401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert server.ask("GET", "/api/jobs", token=None, Authorization=f"Basic {TOKEN}").status == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "192.168.1.4", "a@b"],
)
def test_foreign_host(server: Running, host: str) -> None:
    for path in ("/", "/api/status", "/api/jobs"):
        assert server.ask("GET", path, Host=host).error[:2] == (421, "host")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}],
)  # fmt: skip
def test_other_sites(server: Running, headers: dict[str, Any]) -> None:
    for method, path in (("GET", "/api/status"), ("POST", "/api/generate"), ("GET", "/app.js")):
        assert server.ask(method, path, **headers).error[:2] == (403, "origin")


def test_own_pages_and_links(server: Running) -> None:
    own: dict[str, Any] = {"Origin": server.origin, "Sec_Fetch_Site": "same-origin"}
    assert server.ask("GET", "/api/jobs", **own).status == 200
    link: dict[str, Any] = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert server.ask("GET", "/", **link, Sec_Fetch_Dest="document").status == 200
    assert server.ask("GET", "/", **link, Sec_Fetch_Dest="iframe").status == 403
    assert server.ask("GET", "/api/status", **link, Sec_Fetch_Dest="document").status == 403


def test_hosts_of_an_open_server() -> None:
    hosts = Hosts.for_address("0.0.0.0", ["Studio.lan"])
    assert hosts.knows("192.168.1.4:8765") and hosts.knows("[::1]:80") and hosts.knows("studio.lan")
    assert not hosts.knows("evil.example") and not hosts.knows("1.2.3.4.evil.example")
    assert not Hosts.for_address("127.0.0.1").knows("192.168.1.4")
