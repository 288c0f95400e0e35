"""``flowship serve``: the web app and the HTTP API on this machine."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable

from ...runtime.engines import ENGINE_NAMES
from ...runtime.errors import FlowshipError, MissingExtraError, UsageError

DEFAULT_PORT = 8765
BACKLOG = 512  # connections that wait to be accepted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="*",
        help="bundle folders or zips, or the word embedded; the first is the default (embedded)",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (%(default)s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but this machine's own opens it to others (%(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which browsers know this machine",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument(
        "--max-jobs", type=int, default=64, metavar="N", help="requests at a time (%(default)s)"
    )
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", default="onnx", help=f"{', '.join(ENGINE_NAMES)} (%(default)s)")
    group.add_argument("--precision", help="of the first bundle (its first for the engine)")
    group.add_argument("--device", default="cpu", help="cpu, cuda, dml, ... (%(default)s)")
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads of one call (by model size)"
    )


def run(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port} is not between 0 and 65535")
    if not 1 <= arguments.max_jobs <= 1000:
        raise UsageError(f"--max-jobs {arguments.max_jobs} is not between 1 and 1000")
    for package in ("starlette", "uvicorn"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise MissingExtraError("flowship serve", package, "serve") from error
    listener = listen(arguments.host, arguments.port)
    with listener:
        return _serve(listener, arguments)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address is none of this machine's.
        FlowshipError: the port is taken or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise UsageError(f"--host {host} is no address of this machine: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FlowshipError(
                f"port {port} of {host} is already used: choose another --port, or 0 for any free"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host} is no address of this machine") from error
        raise FlowshipError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address to listen on reaches this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(listener: socket.socket, arguments: argparse.Namespace) -> int:
    # Imported here: a missing package has been reported by now.
    from .app import create_app
    from .guard import Hosts
    from .models import EngineChoice, Models
    from .server import Server

    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    models = Models(
        arguments.bundles,
        EngineChoice(arguments.engine, arguments.precision, arguments.device, arguments.threads),
    )
    try:
        hosts = Hosts.for_address(arguments.host, arguments.allow_host)
        app = create_app(models, token=token, hosts=hosts, max_jobs=arguments.max_jobs)
        announce = _announcer(arguments, port, token)
        # uvicorn stops at both signals, then raises them again for whoever started it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            Server(app, announce).run(sockets=[listener])
        except KeyboardInterrupt:
            print("flowship serve: stopped", file=sys.stderr)
    finally:
        models.close()
    return 0


def _announcer(arguments: argparse.Namespace, port: int, token: str) -> Callable[[], None]:
    host = arguments.host

    def announce() -> None:
        name = "127.0.0.1" if host in ("0.0.0.0", "localhost") else host
        name = "[::1]" if name == "::" else f"[{name}]" if ":" in name else name
        url = f"http://{name}:{port}/#token={token}"
        if not is_loopback(host):
            print(
                f"WARNING: listening on {host}: everybody in this network who has the token can "
                "compute here, and nothing is encrypted",
                file=sys.stderr,
            )
        print(url, flush=True)
        print("flowship serve: Ctrl-C stops it", file=sys.stderr, flush=True)
        if not arguments.no_browser:
            webbrowser.open(url)

    return announce
