"""``flowship serve``: the web app and the HTTP API on this machine."""

from __future__ import annotations

import argparse
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from ...runtime.commands.options import add_threads
from ...runtime.engines import ENGINE_NAMES
from ...runtime.errors import UsageError
from ...runtime.extras import need
from ...runtime.progress import say
from .addresses import browser_url, is_loopback, listen

DEFAULT_PORT = 8765


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
    add_threads(group)


def run(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port} is not between 0 and 65535")
    if not 1 <= arguments.max_jobs <= 1000:
        raise UsageError(f"--max-jobs {arguments.max_jobs} is not between 1 and 1000")
    need("the server", "starlette", "uvicorn")
    listener = listen(arguments.host, arguments.port)
    with listener:
        return _serve(listener, arguments)


def _serve(listener: socket.socket, arguments: argparse.Namespace) -> int:
    # Imported here: a missing package has been reported by now.
    from .app import create_app
    from .guard import Hosts
    from .models import EngineChoice, Models
    from .server import Server

    token = secrets.token_urlsafe(24)
    address, port = listener.getsockname()[:2]
    models = Models(
        arguments.bundles,
        EngineChoice(arguments.engine, arguments.precision, arguments.device, arguments.threads),
    )
    try:
        hosts = Hosts.for_address(address, [arguments.host, *arguments.allow_host])
        app = create_app(models, token=token, hosts=hosts, max_jobs=arguments.max_jobs)
        announce = _announcer(address, port, token, browser=not arguments.no_browser)
        # uvicorn stops at both signals, then raises them again for whoever started it: nothing
        # comes of Ctrl-C in a shell's background job, which ignores it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _stop_at_hangup()
        with suppress(KeyboardInterrupt):
            Server(app, announce).run(sockets=[listener])
        say("flowship serve: stopped")
    finally:
        models.close()
    return 0


def _stop_at_hangup() -> None:
    """A terminal that is closed stops the server as well, unless nohup keeps it."""
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        signal.signal(hangup, lambda *_: signal.raise_signal(signal.SIGTERM))


def _announcer(address: str, port: int, token: str, *, browser: bool) -> Callable[[], None]:
    def announce() -> None:
        url = f"{browser_url(address, port)}#token={token}"
        if not is_loopback(address):
            say(
                f"WARNING: on {address} everybody in this network who has the token can compute "
                "here, and nothing is encrypted\n"
                "flowship serve: other devices open the printed address with this machine's name "
                "or address in it"
            )
        print(url, flush=True)
        say("flowship serve: Ctrl-C stops it")
        if browser:
            webbrowser.open(url)

    return announce
