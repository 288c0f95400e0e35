"""``flowship serve --host``: what it prints, whom it lets in, and addresses it cannot listen on."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from command_line import Terminal

from flowship.apps.server.addresses import browser_url, is_loopback, listen
from flowship.apps.server.guard import Hosts

CLI = "import sys; from flowship.runtime import cli; sys.exit(cli.main(sys.argv[1:]))"
STARTED = "flowship serve: Ctrl-C stops it\n"


@dataclass(frozen=True)
class Served:
    """A ``flowship serve`` of its own: the printed address and what stood before it on stderr."""

    name: str
    port: int
    token: str
    warnings: str

    def ask(
        self, path: str, *, address: str | None = None, token: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON of a GET; ``address`` is where to connect, the printed one at first."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        where = address or self.name.strip("[]")
        connection = http.client.HTTPConnection(where, self.port, timeout=600)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def refusal(self, path: str, **options: Any) -> tuple[int, str]:
        """Status and kind of an error."""
        status, answer = self.ask(path, **options)
        return status, answer["error"]["kind"]


@contextmanager
def serving(*words: str) -> Iterator[Served]:
    """Start the command, read what it prints, and end it as Ctrl-C does."""
    command = [sys.executable, "-c", CLI, "serve", "--port", "0", "--no-browser", *words]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout and server.stderr
        try:
            line = server.stdout.readline()
            found = re.fullmatch(r"http://(\[.+\]|[^:]+):(\d+)/#token=([\w-]{32,})\n", line)
            assert found, line or server.communicate(timeout=600)
            warnings = ""
            while not warnings.endswith(STARTED):
                warnings += server.stderr.readline()
            yield Served(found[1], int(found[2]), found[3], warnings.removesuffix(STARTED))
            server.send_signal(signal.SIGINT)
            said, complaints = server.communicate(timeout=600)
            assert (server.returncode, said) == (0, "")
            assert complaints == "flowship serve: stopped\n"
        finally:
            server.kill()


def need_ipv6() -> None:
    try:
        listen("::1", 0).close()
    except Exception:
        pytest.skip("this system has no IPv6 loopback")


def check_guard(served: Served) -> None:
    """The token is wanted, and names of others are refused whether or not there is one."""
    own = f"{served.name}:{served.port}"
    assert served.ask("/api/status")[0] == 200
    assert served.refusal("/api/bundles") == (401, "token")
    assert served.refusal("/api/bundles", token="wrong") == (401, "token")
    status, found = served.ask("/api/bundles", token=served.token, Origin=f"http://{own}")
    assert status == 200 and found["bundles"][0]["id"] == "embedded"
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example"):
        for path in ("/", "/api/status", "/api/bundles"):
            refused = served.refusal(path, token=served.token, Host=host)
            assert refused == (421, "host"), (host, path)
    for origin in ("http://evil.example", f"http://[::2]:{served.port}", "null"):
        assert served.refusal("/api/status", Origin=origin) == (403, "origin")


def test_open_to_the_network() -> None:
    with serving("--host", "0.0.0.0", "--allow-host", "Studio.LAN") as served:
        assert served.name == "127.0.0.1", "0.0.0.0 is nothing that a browser opens"
        assert served.warnings.startswith("WARNING: on 0.0.0.0 everybody in this network who has")
        assert "nothing is encrypted" in served.warnings
        assert served.token not in served.warnings
        check_guard(served)
        # Another device names an address, the machine's name, or a name that the user allowed.
        names = ("192.168.1.4", "[fd00::2]", "studio.lan", socket.gethostname(), "localhost")
        for name in names:
            host = f"{name}:{served.port}"
            own = {"Host": host, "Origin": f"http://{host}"}
            assert served.ask("/api/bundles", token=served.token, **own)[0] == 200, name
            assert served.refusal("/api/bundles", **own) == (401, "token")
            assert served.refusal("/api/bundles", Host=host, Origin=f"http://{name}") == (
                403,
                "origin",
            )


def test_ipv6_loopback() -> None:
    need_ipv6()
    with serving("--host", "::1") as served:
        assert (served.name, served.warnings) == ("[::1]", "")
        check_guard(served)
        # It is this machine's alone, so addresses of others are foreign.
        for host in ("192.168.1.4", "[fd00::2]", socket.gethostname() + ".evil.example"):
            assert served.refusal("/api/status", Host=host) == (421, "host")


def test_all_ipv6_addresses() -> None:
    need_ipv6()
    with serving("--host", "::") as served:
        assert served.name == "[::1]"
        assert served.warnings.startswith("WARNING: on :: everybody in this network who has")
        check_guard(served)
        assert served.ask("/api/status", Host=f"[fd00::2]:{served.port}")[0] == 200


def test_a_name_is_printed_as_the_address_that_answers() -> None:
    with serving("--host", "localhost") as served:
        assert served.name in ("127.0.0.1", "[::1]")
        assert served.warnings == ""
        assert served.ask("/api/status", Host=f"localhost:{served.port}")[0] == 200


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.77", "--host '192.0.2.77' is no address of this machine\n"),
        ("2001:db8::77", "--host '2001:db8::77' is no address of this machine\n"),
        ("", "--host '' is no address of this machine ("),
        ("127.0.0.1:80", "--host '127.0.0.1:80' is no address of this machine ("),
        ("[::1]", "an IPv6 address has no brackets here"),
        ("a" * 64, "is no address of this machine: it is no name of a machine"),
        ("a..b", "is no address of this machine"),
    ],
)
def test_addresses_of_others(flowship: Terminal, host: str, message: str) -> None:
    assert message in flowship.refused("serve", "--host", host, "--port", 0, "--no-browser")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port(flowship: Terminal, host: str) -> None:
    if host == "::1":
        need_ipv6()
    with listen(host, 0) as taken:
        port = taken.getsockname()[1]
        line = flowship.refused("serve", "--host", host, "--port", port, status=1)
    assert f"port {port} of {host} is already used: choose another --port" in line


@pytest.mark.parametrize(
    ("address", "alone", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80/"),
        ("127.9.9.9", True, "http://127.9.9.9:80/"),
        ("::1", True, "http://[::1]:80/"),
        ("0.0.0.0", False, "http://127.0.0.1:80/"),
        ("::", False, "http://[::1]:80/"),
        ("192.168.1.4", False, "http://192.168.1.4:80/"),
        ("fd00::2", False, "http://[fd00::2]:80/"),
    ],
)
def test_printed_address(address: str, alone: bool, url: str) -> None:
    assert (is_loopback(address), browser_url(address, 80)) == (alone, url)
    assert Hosts.for_address(address).any_address is not alone
    assert Hosts.for_address(address).knows(url.removeprefix("http://").rstrip("/"))
