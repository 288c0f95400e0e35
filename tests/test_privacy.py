"""Nothing leaves the machine: generation with the network cut, and a server that calls nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

GENERATE = ["generate", "--label", "sneaker", "--seed", "7", "--threads", "1", "-q"]
CLI = "import sys; from flowship.runtime import cli; sys.exit(cli.main(sys.argv[1:]))"

# Every connection that this process tries is written down, and only loopback is let through.
WATCHED = """
import ipaddress, os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        where = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = where[0] if isinstance(where, tuple) else where
        with open(os.environ["WATCH"], "a") as file:
            print(event, host, file=file)

sys.addaudithook(watch)
"""


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "WATCH": str(tmp_path / "watched")}


def test_generates_without_any_network_device(tmp_path: Path) -> None:
    """In a network namespace of its own there is not even a loopback that is up."""
    unshare = shutil.which("unshare")
    cut = [str(unshare), "-rn"]
    if not unshare or subprocess.run([*cut, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives users no network namespaces (unshare -rn)")
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    ran = subprocess.run([*cut, sys.executable, "-c", probe], capture_output=True, check=False)
    assert b"unreachable" in ran.stderr, "the namespace is not cut off"
    for prefix, name in (([], "with.png"), (cut, "without.png")):
        subprocess.run(
            [*prefix, sys.executable, "-c", CLI, *GENERATE, "-o", name],
            cwd=tmp_path, env=_environment(tmp_path), check=True,
        )  # fmt: skip
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_commands_try_no_connection(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHED + CLI, *GENERATE, "-o", "x.png"]
    subprocess.run(command, cwd=tmp_path, env=_environment(tmp_path), check=True)
    assert not (tmp_path / "watched").exists()


def test_onnx_runtime_sends_no_telemetry(tmp_path: Path) -> None:
    """It would make a device id when it starts, and look up its server seconds later."""
    homes = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME")}
    environment = {**_environment(tmp_path), **homes}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", CLI, *GENERATE, "-o", "x.png"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "x.png").exists()
    assert not list(tmp_path.rglob("*onnxruntime*")) and not list(tmp_path.rglob("deviceid"))
    if strace := shutil.which("strace"):
        linger = (
            "from flowship.runtime import Flow; import time\n"
            "with Flow.open() as flow: flow.generate(); time.sleep(12)"
        )
        watched = [strace, "-f", "-e", "trace=connect,sendto", "-o", "calls", sys.executable]
        subprocess.run([*watched, "-c", linger], cwd=tmp_path, env=environment, check=True)
        assert "AF_INET" not in (tmp_path / "calls").read_text()


def test_the_server_calls_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHED + CLI, "serve", "--port", "0", "--no-browser",
               "--threads", "1"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(tmp_path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        assert server.stdout and server.stderr
        url, _, token = server.stdout.readline().strip().partition("#token=")
        assert url.startswith("http://127.0.0.1:") and len(token) >= 32
        request = urllib.request.Request(
            f"{url}api/generate",
            json.dumps({"seeds": ["424242"], "preview": False}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            assert b"event: done" in answer.read()
        server.terminate()
        said, complaints = server.communicate(timeout=600)
    assert server.returncode == 0
    # It resolves the address that it listens on, and connects to nothing.
    watched = (tmp_path / "watched").read_text().splitlines()
    assert set(watched) <= {"socket.getaddrinfo 127.0.0.1"}
    # And it writes nothing about what was asked.
    assert said == "" and "424242" not in complaints
    assert complaints.splitlines() == ["flowship serve: Ctrl-C stops it", "flowship serve: stopped"]
