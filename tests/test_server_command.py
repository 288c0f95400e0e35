"""``flowship serve`` as a command, and the example of a client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from command_line import Terminal
from laptop_server import LONG, TOKEN, Running, generating, running_server, until

from flowship.apps.server import client_example
from flowship.apps.server.addresses import listen


def test_client_example(server: Running, tmp_path: Path, flowship: Terminal) -> None:
    out = tmp_path / "client.png"
    command_line = [sys.executable, client_example.__file__, f"{server.origin}/#token={TOKEN}",
                    "--seed", "7", "--label", "sneaker", "-o", str(out)]  # fmt: skip
    ran = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    flowship.ok("generate", "--seed", 7, "--label", "sneaker", "-o", "x.png", "--threads", 1)
    assert out.read_bytes() == Path("x.png").read_bytes()


def _client(address: str, out: Path) -> subprocess.Popen[str]:
    """The example client, started."""
    command = [sys.executable, client_example.__file__, address, "-o", str(out)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_client_example_says_what_went_wrong(tmp_path: Path) -> None:
    """One line and exit 1 where nobody listens, and where somebody else cancels its job."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    refused = _client(f"http://127.0.0.1:{port}/#token=x", tmp_path / "x.png")
    said, complaint = refused.communicate(timeout=600)
    assert (refused.returncode, said, complaint.count("\n")) == (1, "", 1), complaint
    assert f"http://127.0.0.1:{port}/ does not answer: " in complaint
    with running_server() as server:
        connection, _ = generating(server, LONG)  # the client's job waits behind it
        cancelled = _client(f"{server.origin}/#token={TOKEN}", tmp_path / "x.png")
        until(lambda: len(server.ask("GET", "/api/jobs").json["jobs"]) == 2)
        job = server.ask("GET", "/api/jobs").json["jobs"][1]
        assert server.ask("DELETE", f"/api/jobs/{job['id']}").status == 204
        said, complaint = cancelled.communicate(timeout=600)
        connection.close()
    assert (cancelled.returncode, said, complaint) == (1, "", "the job was cancelled\n")
    assert not (tmp_path / "x.png").exists()


def test_misuse(flowship: Terminal) -> None:
    assert "--port 70000 is not between" in flowship.refused("serve", "--port", 70000)
    assert "--max-jobs 0" in flowship.refused("serve", "--max-jobs", 0)
    assert "no address of this machine" in flowship.refused("serve", "--host", "192.0.2.1")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        line = flowship.refused("serve", "--port", port, status=1)
    assert f"port {port} of 127.0.0.1 is already used" in line
    line = flowship.refused("serve", "nothing.flowship", "--port", 0, status=1)
    assert "nothing.flowship does not exist" in line
    assert "engine" in flowship.refused("serve", "--port", 0, "--engine", "x")


def test_what_it_imports() -> None:
    code = (
        "import sys, flowship.apps.server, flowship.apps.server.command\n"
        "sys.exit(str({'torch', 'onnx', 'executorch', 'onnxruntime'} & set(sys.modules) or ''))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""
