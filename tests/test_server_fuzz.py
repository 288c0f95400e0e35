"""Nonsense sent to the server: never a 500, never a hang, and it lives on."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laptop_server import Running

from flowship.apps.server.app import OPERATIONS
from flowship.apps.server.openapi import describe_api

BODIES = {op.path: op.body for op in OPERATIONS if op.body}
SCHEMAS = describe_api()["components"]["schemas"]
ALL = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _alive(server: Running) -> None:
    assert server.ask("GET", "/api/status").status == 200


numbers = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([0, -1, 1 << 64, 1e308, 5e-324])
)
texts = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode()),
    st.sampled_from(["embedded", "fp32", "7", "9" * 400, "\0", "../x", "iVBORw0KGgoAAAANSUhEUgAA"]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and a body with some of its keys and some nonsense."""
    path = draw(st.sampled_from(sorted(BODIES)))
    schema = SCHEMAS[BODIES[path].__name__]
    keys = draw(st.lists(st.sampled_from(sorted(schema["properties"])), unique=True, max_size=5))
    body: dict[str, Any] = {key: draw(values) for key in keys}
    if draw(st.booleans()):  # deeper: what is required is there
        right = {"seeds": ["1"], "latents": "AAAA", "first": {"seed": "1"}, "last": {"seed": "2"},
                 "steps": 2, "image": {"file": draw(texts)}}  # fmt: skip
        body = {**{key: right[key] for key in schema["required"]}, **body}
    return path, json.dumps(body).encode()


@ALL
@given(bodies())
def test_bodies(server: Running, sent: tuple[str, bytes]) -> None:
    path, body = sent
    answer = server.ask("POST", path, body)
    assert answer.status in (200, 400, 404), answer
    if answer.status == 200:
        name, data = answer.events[-1]
        assert name == "done" or (name == "error" and data["kind"] != "internal"), data


@ALL
@given(st.sampled_from(sorted(BODIES)), st.binary(max_size=200))
def test_bytes(server: Running, path: str, body: bytes) -> None:
    assert server.ask("POST", path, body).status == 400


@ALL
@given(st.binary(min_size=1, max_size=400), st.integers(0, 1400))
def test_damaged_pictures(server: Running, noise: bytes, at: int) -> None:
    picture = bytearray(_png())
    picture[at % len(picture) : at % len(picture) + len(noise)] = noise
    body = {"image": {"file": base64.b64encode(picture).decode()}}
    name, data = server.ask("POST", "/api/encode", body).events[-1]
    assert name == "done" or data["kind"] == "usage", data
    assert " at 0x" not in data.get("message", ""), "an object of the server's memory"


def _png() -> bytes:
    from flowship.runtime.bundle import EMBEDDED

    return (EMBEDDED / "golden" / "onnx-fp32-seed1.png").read_bytes()


@ALL
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD", "TRACE"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
)
def test_paths(server: Running, method: str, path: str) -> None:
    answer = server.ask(method, "/" + path.replace("#", ""))
    assert answer.status in (200, 400, 404, 405, 415, 421, 503), answer
    assert b"root:" not in answer.body


_HEADERS = ("Host", "Origin", "Authorization", "Content-Type", "Content-Length", "Range",
            "Sec-Fetch-Site", "If-Modified-Since", "Transfer-Encoding", "Expect")  # fmt: skip


@ALL
@given(
    st.dictionaries(
        st.sampled_from(_HEADERS),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
        max_size=3,
    )
)
def test_headers(server: Running, headers: dict[str, str]) -> None:
    sent: dict[str, Any] = {name.replace("-", "_"): value for name, value in headers.items()}
    for path in ("/api/jobs", "/bundle/manifest.json"):
        answer = server.ask("GET", path, **sent)
        assert answer.status < 500 or answer.status == 501, answer
    _alive(server)
