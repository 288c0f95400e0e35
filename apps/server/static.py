"""The built web app and the embedded bundle as files, or a page that says what is missing."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB_APP = Path(__file__).parents[1] / "web" / "dist"

# A machine's own table of types may be wrong (on Windows the registry is), and nosniff is strict.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>flowship</title>
<h1>The web app is not built</h1>
<p>This checkout has no <code>apps/web/dist</code>. Run <code>make web</code>, then start
<code>flowship serve</code> again. The HTTP API works without it: see
<code>docs/server-api.md</code>.
</html>
"""


class Files(StaticFiles):
    """A folder's files with fixed types; browsers ask each time whether a file has changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if "\0" in path:  # no file system takes it
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        if isinstance(response, RedirectResponse):  # "/." and the like: the app has one address
            raise HTTPException(404)
        kind = _TYPES.get(PurePosixPath(path).suffix.lower())
        if kind and response.status_code == 200:
            response.headers["Content-Type"] = kind
        response.headers["Cache-Control"] = "no-cache"
        return response


def not_built() -> Response:
    """In place of the app."""
    return HTMLResponse(_NOT_BUILT, 503)
