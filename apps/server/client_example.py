"""A client of ``flowship serve`` that needs nothing but Python: pictures from seeds into files.

python client_example.py 'http://127.0.0.1:8765/#token=...' --seed 7 --label sneaker -o sneaker.png
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urldefrag

Json = dict[str, Any]
BROKEN = (OSError, http.client.HTTPException)  # what a refused or lost connection raises


class Client:
    """Talks to one server.

    Args:
        url: as ``flowship serve`` prints it, with the token.
    """

    def __init__(self, url: str) -> None:
        self._base, fragment = urldefrag(url)
        self._token = parse_qs(fragment).get("token", [""])[0]

    def get(self, path: str) -> Json:
        """The JSON of a GET route."""
        with self._open(path) as answer:
            found: Json = json.load(answer)
            return found

    def stream(self, path: str, body: Json) -> Iterator[tuple[str, Json]]:
        """Name and data of every event of a POST route; close it to cancel the job."""
        name = ""
        with self._open(path, json.dumps(body).encode()) as answer:
            try:
                for line in answer:
                    key, _, value = line.decode().rstrip("\n").partition(": ")
                    if key == "event":
                        name = value
                    elif key == "data":
                        yield name, json.loads(value)
            except BROKEN as error:
                sys.exit(f"the connection to {self._base} broke off: {error}")
        if name not in ("done", "error", "cancelled"):
            sys.exit(f"{self._base} ended the stream early")

    def _open(self, path: str, data: bytes | None = None) -> IO[bytes]:
        """Tries again where the server is busy, when it says so."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._base.rstrip("/") + path, data, headers)
        while True:
            try:
                answer: IO[bytes] = urllib.request.urlopen(request)
                return answer
            except urllib.error.HTTPError as error:
                with error:
                    if error.status != 503 or "Retry-After" not in error.headers:
                        sys.exit(json.load(error)["error"]["message"])
                    time.sleep(int(error.headers["Retry-After"]))
            except BROKEN as error:
                sys.exit(f"{self._base} does not answer: {getattr(error, 'reason', error)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="as flowship serve prints it")
    parser.add_argument("--seed", default="0", help="0 to 2^64 - 1")
    parser.add_argument("--label", help="name of a class")
    parser.add_argument("-o", "--output", type=Path, help="a PNG (a new out.png)")
    arguments = parser.parse_args()
    output = arguments.output or Path("out.png")
    if output.suffix.lower() != ".png":
        parser.error(f"-o {output}: the picture is a PNG, name a file that ends in .png")
    if not arguments.output and output.exists():
        parser.error(f"{output} is there already: name a file with -o")

    client = Client(arguments.url)
    bundle = client.get("/api/bundles")["bundles"][0]
    if arguments.label not in (None, *bundle["classes"]):
        parser.error(f"--label {arguments.label} is none of {', '.join(bundle['classes'])}")
    labels = [bundle["classes"].index(arguments.label)] if arguments.label else []
    body = {"bundle": bundle["id"], "seeds": [arguments.seed], "labels": labels, "preview": False}
    for name, data in client.stream("/api/generate", body):
        if name == "progress":
            left = f"{data['seconds_left']:.1f} s left"
            print(f"{data['fraction']:4.0%} {data['block']}, {left}", file=sys.stderr)
        elif name == "picture":
            output.write_bytes(base64.b64decode(data["png"]))
            print(output)
        elif name == "error":
            sys.exit(data["message"])
        elif name == "cancelled":
            sys.exit("the job was cancelled")


if __name__ == "__main__":
    main()
