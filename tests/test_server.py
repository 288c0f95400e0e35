"""``flowship serve``: every route, every error, the queue, and who is let in."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal
from laptop_server import TOKEN, Running, parse_events, running_server
from PIL import Image

from flowship.apps.server import client_example, connections
from flowship.apps.server import server as server_module
from flowship.apps.server.addresses import listen
from flowship.apps.server.app import OPERATIONS
from flowship.apps.server.guard import SECURITY_HEADERS, Hosts
from flowship.apps.server.openapi import describe_api
from flowship.runtime import Flow
from flowship.runtime.bundle import EMBEDDED
from flowship.runtime.pictures import read_picture

ROOT = Path(__file__).parents[1]
LONG = {"seeds": [str(i) for i in range(64)], "guidance": 1.0, "labels": [7], "preview": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text("<!doctype html><title>flowship</title>")
    (site / "app.js").write_text("export {};")
    (site / "engine.wasm").write_bytes(b"\0asm")
    with running_server(web_app=site) as running:
        yield running


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow.open(threads=1) as flow:
        yield flow


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A colour picture of another size than the model's."""
    levels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _pixels(data: str, width: int, channels: int) -> Any:
    return {"data": data, "width": width, "height": 1, "channels": channels}


def _floats(text: str, *shape: int) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def _named(events: list[tuple[str, Any]], name: str) -> list[Any]:
    return [data for found, data in events if found == name]


def _until(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# ---- what it serves -----------------------------------------------------------------------------


def test_status_and_bundles(server: Running, flow: Flow) -> None:
    status = server.ask("GET", "/api/status", token=None)
    assert status.json["name"] == "flowship" and status.json["token_required"] is True
    found = server.ask("GET", "/api/bundles").json
    (bundle,) = found["bundles"]
    assert (bundle["id"], bundle["sha256"]) == ("embedded", flow.bundle.sha256)
    assert bundle["classes"] == list(flow.spec.class_names)
    assert bundle["precisions"] == ["fp32"] and bundle["engine"]["name"] == "onnx"
    assert found["limits"]["images"] == 64


def test_pictures_are_those_of_the_command_line(server: Running, flowship: Terminal) -> None:
    flowship.ok("generate", "--seed", "7,11", "--label", "sneaker,bag", "--guidance", "1.5",
                "--separate", "--threads", 1, "-q")  # fmt: skip
    answer = server.post("generate", seeds=["7", "11"], labels=[7, 8], guidance=1.5)
    events = answer.events
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in events]
    assert names[:2] == ["queued", "started"] and names[-3:] == ["picture", "picture", "done"]
    pictures = _named(events, "picture")
    for seed, picture in zip((7, 11), pictures, strict=True):
        data = base64.b64decode(picture["png"])
        assert data == Path(f"fashion-mnist-{seed}.png").read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            assert image.text["flowship"] == picture["recipe"]
            assert base64.b64decode(picture["pixels"]["data"]) == image.tobytes()
    progress = _named(events, "progress")
    assert [p["fraction"] for p in progress] == sorted(p["fraction"] for p in progress)
    assert all(len(p["previews"]) == 2 for p in progress)
    recipe = json.loads(pictures[0]["recipe"])
    again = server.post("generate", seeds=["7"], labels=[7], guidance=1.5, plan=recipe["plan"])
    assert len(_named(again.events, "picture")) == 1


def test_encode_and_score(server: Running, flow: Flow, png: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png)
    image = read_picture(tmp_path / "x.png", flow.spec.image)[None]
    z, logdet = flow.encode(image, label=[3])
    (found,) = _named(server.post("encode", image={"file": _b64(png)}, label=3).events, "encoded")
    assert np.array_equal(_floats(found["z"], *found["shape"]), z[0])
    assert found["logdet"] == logdet[0]
    pixels = found["input"]
    raw = {key: pixels[key] for key in ("width", "height", "channels", "data")}
    (same,) = _named(server.post("encode", image=raw, label=3).events, "encoded")
    assert same["z"] == found["z"]
    for noise in ("none", "train"):
        (scored,) = _named(
            server.post("score", image=raw, label=3, noise=noise, noise_seed="5").events, "scored"
        )
        expected = flow.log_likelihood(image, label=[3], noise=noise, noise_seed=5)
        assert scored["bits_per_dim"] == expected.bits_per_dim[0]
        assert scored["convention"] == expected.convention
    # The latent gives the picture back.
    events = server.post("decode", latents=found["z"], input="z", labels=[3]).events
    (picture,) = _named(events, "picture")
    levels = [
        np.frombuffer(base64.b64decode(p["data"]), np.uint8) for p in (pixels, picture["pixels"])
    ]
    assert np.abs(levels[0].astype(int) - levels[1]).max() <= 1


def test_decode_and_interpolate(server: Running, flow: Flow, flowship: Terminal) -> None:
    noise = flow.generate(seed=4).noise
    events = server.post("decode", latents=_b64(noise.tobytes()), denoise=True).events
    assert _named(events, "denoising") and len(_named(events, "picture")) == 1
    flowship.ok(
        "interpolate", "--seeds", "3,9", "--steps", 4, "--label", "bag,coat", "--threads", 1
    )
    events = server.post(
        "interpolate", first={"seed": "3"}, last={"seed": "9"}, steps=4, labels=[8, 4]
    ).events
    pictures = _named(events, "picture")
    assert [picture["index"] for picture in pictures] == [0, 1, 2, 3]
    with Image.open("interpolation.png") as image:
        strip = np.asarray(image)
    for i, picture in enumerate(pictures):
        levels = np.frombuffer(base64.b64decode(picture["pixels"]["data"]), np.uint8)
        assert np.array_equal(levels.reshape(28, 28), strip[:, 30 * i : 30 * i + 28])
    z = _b64((noise * np.sqrt(flow.bundle.array("var"))).astype("<f4").tobytes())
    image_end = {"image": pictures[0]["pixels"]}
    mixed = server.post("interpolate", first={"z": z}, last=image_end, steps=2).events
    assert len(_named(mixed, "picture")) == 2


def test_a_bundle_without_denoising_graphs(tmp_path: Path) -> None:
    """It says so in its list, and refuses before anything is computed."""
    bundle = tmp_path / "plain.flowship"
    shutil.copytree(EMBEDDED, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["role"] != "vjp"]
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with running_server(str(bundle), None) as server:
        plain, embedded = server.ask("GET", "/api/bundles").json["bundles"]
        assert (plain["denoise"], plain["denoise_precisions"]) == (False, [])
        assert (embedded["denoise"], embedded["denoise_precisions"]) == (True, ["fp32"])
        for route, body in (("generate", {"seeds": ["1"]}), ("decode", {"latents": ""})):
            events = server.post(route, bundle=plain["id"], denoise=True, **body).events
            assert [name for name, _ in events] == ["queued", "error"]
            assert events[-1][1]["kind"] == "usage"
            assert "has no denoising graphs for onnx fp32" in events[-1][1]["message"]


def test_static_files(server: Running) -> None:
    page = server.ask("GET", "/", token=None)
    assert page.status == 200 and b"flowship" in page.body
    for name, value in SECURITY_HEADERS.items():
        assert page.headers[name.lower()] == value
    assert not any(name.startswith("access-control") for name in page.headers)
    assert server.ask("GET", "/app.js").headers["content-type"].startswith("text/javascript")
    assert server.ask("GET", "/engine.wasm").headers["content-type"] == "application/wasm"
    manifest = server.ask("GET", "/bundle/manifest.json", token=None)
    assert manifest.json["name"] == "fashion-mnist"
    assert server.ask("GET", "/nothing").error[:2] == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/%2e%2e/pyproject.toml", "/..%5c..%5cpyproject.toml",
     "//etc/passwd", "/bundle/../bundle.py", "/%00",
     "/bundle/..%2f..%2fflow.py"],
)  # fmt: skip
def test_paths_stay_inside(server: Running, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body and b"import" not in answer.body


def test_app_that_is_not_built(tmp_path: Path) -> None:
    with running_server(web_app=tmp_path) as running:
        answer = running.ask("GET", "/")
        assert answer.status == 503 and b"make web" in answer.body
        assert running.ask("GET", "/api/status").status == 200


def test_openapi_is_what_is_served(server: Running) -> None:
    found = server.ask("GET", "/api/openapi.json", token=None).json
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert found == describe_api() == committed, "python -m flowship.apps.server.openapi"
    for operation in OPERATIONS:
        assert operation.method.lower() in committed["paths"][operation.path]
        assert operation.path in (ROOT / "docs" / "server-api.md").read_text()
        wrong = "POST" if operation.method != "POST" else "GET"
        path = operation.path.replace("{id}", "x")
        if path != "/api/openapi.json":
            assert server.ask(wrong, path).error[:2] == (405, "method")


# ---- who is let in ------------------------------------------------------------------------------


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


# ---- what a user may get wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("generate", {}, "'seeds' is missing"),
        ("generate", {"seeds": []}, "0 seeds, expected 1 to 64"),
        ("generate", {"seeds": ["1"] * 65}, "65 seeds"),
        ("generate", {"seeds": [1]}, r"body.seeds\[0\]: expected a string"),
        ("generate", {"seeds": ["-1"]}, "seed '-1' is not a decimal"),
        ("generate", {"seeds": [str(1 << 64)]}, "is not a decimal number from 0 to 2"),
        ("generate", {"seeds": ["1"], "guidence": 3}, "unknown key 'guidence'"),
        ("generate", {"seeds": ["1"], "guidance": -1}, "guidance -1.0 is not between"),
        ("generate", {"seeds": ["1"], "guidance": 1e300}, "guidance 1e.300 is not between"),
        ("generate", {"seeds": ["1"], "guidance": True}, "body.guidance: expected a number"),
        ("generate", {"seeds": ["1"], "attn_temp": 0}, "attn_temp 0.0 is not between"),
        ("generate", {"seeds": ["1"], "guide_what": "c"}, "expected one of 'ab', 'a', 'b'"),
        ("generate", {"seeds": ["1"], "plan": {"windows": {"block0": 0}}}, "a window of 0 patches"),
        ("generate", {"seeds": ["1"], "plan": {"guided_windows": {"block0": 10**18}}},
         "a window of 1000000000000000000 patches, expected 1 to 65536"),
        ("generate", {"seeds": ["1"], "precision": "int3"}, "there is no 'int3', only fp32"),
        ("interpolate", {"first": {}, "last": {"seed": "1"}, "steps": 2}, "exactly one of"),
        ("interpolate", {"first": {"seed": "2"}, "last": {"seed": "1"}, "steps": 1}, "steps 1 is"),
        ("encode", {"image": {}}, "either 'file' or"),
        ("score", {"image": {"file": ""}, "noise": "some"}, "expected one of 'none', 'train'"),
        ("score", {"image": {"file": ""}, "noise_seed": "x"}, "the seed 'x' is not"),
        # half a letter, which no UTF-8 answer can hold
        ("generate", {"seeds": ["1"], "plan": {"windows": {"\udcff": "x"}}}, "expected an integer"),
        ("generate", {"seeds": ["\ud800"]}, "not a decimal number"),
    ],
)  # fmt: skip
def test_refused_at_once(server: Running, route: str, body: Any, message: str) -> None:
    status, kind, said = server.post(route, **body).error
    assert (status, kind) == (400, "usage") and re.search(message, said), said


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("generate", {"seeds": ["1"], "labels": [10]}, "there is no class 10"),
        ("generate", {"seeds": ["1"], "labels": [1, 2]}, "2 labels for 1 picture"),
        ("decode", {"latents": "AAAA"}, "latents has 3 bytes, expected a multiple of 3136"),
        ("decode", {"latents": "*"}, "latents is not base64"),
        ("decode", {"latents": ""}, "latents has 0 bytes"),
        ("decode", {"latents": _b64(np.full(784, np.nan, "<f4").tobytes())}, "NaN or infinity"),
        ("encode", {"image": {"file": _b64(b"\x89PNG\r\n\x1a\n123")}}, "cannot be read"),
        ("encode", {"image": {"file": _b64(b"no picture")}},
         "cannot be read as a picture: expected PNG, JPEG, WEBP, BMP, TIFF"),
        ("encode", {"image": _pixels("AA==", 2, 1)}, "has 1 bytes, expected 2"),
        ("encode", {"image": _pixels("AA==", 1, 2)}, "expected 1, 3 or 4"),
        ("encode", {"image": _pixels("", 1 << 40, 1)}, "at most"),
        ("encode", {"image": _pixels("", 0, 1)}, "0 x 1 pixels"),
    ],
)  # fmt: skip
def test_refused_by_the_job(server: Running, route: str, body: Any, message: str) -> None:
    events = server.post(route, **body).events
    name, data = events[-1]
    assert name == "error" and data["kind"] == "usage" and message in data["message"], data
    assert " at 0x" not in data["message"]


def test_decompression_bomb(server: Running) -> None:
    file = io.BytesIO()
    Image.new("1", (7_000, 7_000)).save(file, "PNG")
    events = server.post("encode", image={"file": _b64(file.getvalue())}).events
    assert "7000 x 7000 pixels, at most" in events[-1][1]["message"]


def test_bodies(server: Running) -> None:
    ask = server.ask
    assert ask("POST", "/api/generate", b"{").error[:2] == (400, "usage")
    assert ask("POST", "/api/generate", b"\xff").error[:2] == (400, "usage")
    assert ask("POST", "/api/generate", b"[1]").error[:2] == (400, "usage")
    assert ask("POST", "/api/generate", b'{"seeds":["1"],"guidance":NaN}').status == 400
    assert ask("POST", "/api/generate", b'{"seeds":["1"],"seeds":["2"]}').status == 400
    assert ask("POST", "/api/generate", b"[" * 100_000).status == 400
    assert ask("POST", "/api/generate", {}, Content_Type="text/plain").error[:2] == (
        415,
        "media_type",
    )
    assert ask("POST", "/api/generate", b"x", Content_Length="99999999").error[0] == 413
    assert ask("POST", "/api/generate", {"seeds": ["1"], "bundle": "x"}).error[:2] == (
        404,
        "not_found",
    )
    assert ask("GET", "/api/nothing").error[:2] == (404, "not_found")
    assert ask("DELETE", "/api/jobs/nothing").error[:2] == (404, "not_found")


def test_a_body_that_never_ends(server: Running) -> None:
    connection = server.connect()
    parts = (b" " * (1 << 20) for _ in range(12))  # chunked: no length is declared
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/generate", parts, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server had answered and closed before all was sent
    finally:
        connection.close()
    assert server.ask("GET", "/api/status").status == 200


# ---- the queue ----------------------------------------------------------------------------------


def _start(server: Running, body: Any) -> tuple[Any, Any]:
    """A stream that is open: its connection and its answer."""
    connection = server.connect()
    server.begin(connection, "POST", "/api/generate", body)
    return connection, connection.getresponse()


def test_cancel_order_and_back_pressure() -> None:
    with running_server(max_jobs=3) as server:
        streams = [_start(server, LONG), _start(server, {**LONG, "seeds": ["1"]})]
        streams.append(_start(server, {**LONG, "seeds": ["2"]}))
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
        _until(lambda: server.ask("GET", "/api/jobs").json["jobs"] == [])


def test_a_reader_that_leaves_cancels_its_job(server: Running) -> None:
    connection, answer = _start(server, LONG)
    assert answer.readline().startswith(b"event: queued")
    answer.close()
    connection.close()
    _until(lambda: server.ask("GET", "/api/jobs").json["jobs"] == [])
    assert server.post("generate", seeds=["1"]).events[-1][0] == "done"


def test_stopping_ends_streams() -> None:
    with running_server() as server:
        connection, answer = _start(server, LONG)
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
            _until(lambda: server.ask("GET", "/api/status").status == 503)
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
        _until(lambda: server.ask("GET", "/api/status").status == 200)


def _idle(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=600)


def test_many_clients(flow: Flow) -> None:
    """64 clients with 1 or 2 requests each: nothing lost, order kept, memory bounded."""
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
                positions = [data["position"] for data in _named(events, "queued")]
                if positions != sorted(positions, reverse=True) or events[-1][0] != "done":
                    wrong.append(f"{events}")
                pixels = base64.b64decode(_named(events, "picture")[0]["pixels"]["data"])
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
        _until(lambda: server.queue.list() == ())


# ---- the command --------------------------------------------------------------------------------


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
        connection, _ = _start(server, LONG)  # the client's job waits behind it
        cancelled = _client(f"{server.origin}/#token={TOKEN}", tmp_path / "x.png")
        _until(lambda: len(server.ask("GET", "/api/jobs").json["jobs"]) == 2)
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
