"""Addresses: where the server listens, and what a browser on this machine opens."""

from __future__ import annotations

import errno
import ipaddress
import socket

from ...runtime.errors import FlowshipError, UsageError

BACKLOG = 512  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: an address or name of this machine; the first address of a name is taken.
        port: 0 takes a free one.

    Raises:
        UsageError: the address is none of this machine's.
        FlowshipError: the port is taken or not allowed.
    """
    nowhere = f"--host '{host}' is no address of this machine"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        hint = ": an IPv6 address has no brackets here" if host.startswith("[") else ""
        raise UsageError(f"{nowhere} ({error.strerror}){hint}") from error
    except UnicodeError as error:  # a label of a name that is empty or longer than 63 bytes
        raise UsageError(f"{nowhere}: it is no name of a machine") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FlowshipError(
                f"port {port} of {host} is already used: choose another --port, or 0 for any free"
            ) from error
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise UsageError(nowhere) from error
        raise FlowshipError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}"
        ) from error


def is_loopback(address: str) -> bool:
    """Whether an address, not a name, reaches this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def browser_url(address: str, port: int) -> str:
    """Where a browser on this machine finds what listens on an address.

    A name that was asked for plays no part: ``localhost`` may be 127.0.0.1 or ::1.
    """
    found = ipaddress.ip_address(address)
    if found.is_unspecified:  # all addresses: none that a browser could open
        address = "::1" if found.version == 6 else "127.0.0.1"
    return f"http://[{address}]:{port}/" if found.version == 6 else f"http://{address}:{port}/"
