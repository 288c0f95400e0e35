"""Who may talk to the server: its own pages and programs that know the token, nobody else.

A page of another site can send requests to 127.0.0.1, and with a DNS name of its own that resolves
to 127.0.0.1 even read the answers (DNS rebinding). So the Host header must name this machine, the
browser's own words about where a request comes from must name this server, and what computes wants
a token that other pages cannot know.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .addresses import is_loopback

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_ROUTES = ("/api/status", "/api/openapi.json")  # without a token

# 'wasm-unsafe-eval' compiles WebAssembly; workers of onnxruntime-web may come from blobs.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "img-src 'self' blob: data:; connect-src 'self'; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")


def error_response(status: int, kind: str, message: str, **headers: str) -> Response:
    """The JSON of every error before a stream begins."""
    body = {"error": {"kind": kind, "message": message}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return AsciiJSONResponse(body, status, headers={"Cache-Control": "no-store", **named})


class AsciiJSONResponse(JSONResponse):
    """JSON of any text: names and what clients send may hold half a letter, which UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Hosts:
    """Names under which the server is known.

    Attributes:
        names: lower case, without a port.
        any_address: IP addresses are taken too. A rebinding attack needs a name, never an address.
    """

    names: frozenset[str]
    any_address: bool = False

    @staticmethod
    def for_address(address: str, extra: Iterable[str] = ()) -> Hosts:
        """For a server that listens on an address, with further names of the user's choice."""
        own = {*LOOPBACK, address, *(name.lower().rstrip(".") for name in extra)}
        if is_loopback(address):
            return Hosts(frozenset(own))
        machine = socket.gethostname().lower()
        return Hosts(frozenset({*own, machine, f"{machine}.local"}), True)

    def knows(self, header: str) -> bool:
        """Whether a Host header, with or without a port, means this server."""
        match = _HOST.fullmatch(header)
        if not match:
            return False
        name = match["name"].strip("[]").lower().rstrip(".")
        return name in self.names or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Checks Host, origin and token of every request, and adds the security headers."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, token: str) -> None:
        self._app, self._hosts, self._token = app, hosts, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none: closed before it is accepted
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refuse(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.getlist("host")
        if len(host) != 1 or not self._hosts.knows(host[0]):
            return error_response(421, "host", "the Host header names another server")
        path: str = scope["path"]
        if _is_cross_site(headers, host[0], scope, path.startswith("/api/")):
            return error_response(403, "origin", "the request comes from another site")
        if path.startswith("/api/") and path not in OPEN_ROUTES and not self._has_token(headers):
            message = "send 'Authorization: Bearer TOKEN'; flowship serve prints the token"
            return error_response(401, "token", message, WWW_Authenticate="Bearer")
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        # Latin-1, as the header was decoded: any bytes compare without an error.
        given = token.strip().encode("latin-1", "replace")
        return secrets.compare_digest(given, self._token) and kind.lower() == "bearer"


def _is_cross_site(headers: Headers, host: str, scope: Scope, api: bool) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower():
        return True
    site = headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return False
    # Following a link to the app from anywhere is harmless: the page opens without a token.
    opens_page = (
        scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    return api or not opens_page
