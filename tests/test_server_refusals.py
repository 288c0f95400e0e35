"""What a user of ``flowship serve`` may get wrong: each gets its documented error."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from laptop_server import TOKEN, Running, b64
from PIL import Image


def _pixels(data: str, width: int, channels: int) -> Any:
    return {"data": data, "width": width, "height": 1, "channels": channels}


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
        ("decode", {"latents": b64(np.full(784, np.nan, "<f4").tobytes())}, "NaN or infinity"),
        ("encode", {"image": {"file": b64(b"\x89PNG\r\n\x1a\n123")}}, "cannot be read"),
        ("encode", {"image": {"file": b64(b"no picture")}},
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
    events = server.post("encode", image={"file": b64(file.getvalue())}).events
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
