"""What ``flowship serve`` hands out as it is: the web app, the embedded bundle, its description."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from laptop_server import Running, running_server

from flowship.apps.server.app import OPERATIONS
from flowship.apps.server.guard import SECURITY_HEADERS
from flowship.apps.server.openapi import describe_api

ROOT = Path(__file__).parents[1]


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
     "/bundle/..%2f..%2fflow.py", "/.", "/x/.."],
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
