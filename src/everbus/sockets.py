"""Client sockets: the addresses behind a name, and how a socket is set up before it connects.

Both kinds of clients use it; what they do differently, waiting, is theirs.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any, Final

from everbus.client.endpoint import Endpoint
from everbus.errors import ClientClosedError, ConnectError, ConnectionLostError, ModbusError

__all__ = [
    "CLOSED",
    "Address",
    "connect_error",
    "literal_addresses",
    "lost_error",
    "new_socket",
    "no_connection_error",
    "resolve_blocking",
    "to_addresses",
]

CLOSED: Final = "closed"
"""The reason of a connection that the program closed."""

KEEPALIVE_IDLE_S: Final = 60
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
USER_TIMEOUT_S: Final = 90
"""A dead peer is noticed in about 90 s on an idle connection too; a request notices it at its own deadline."""


@dataclass(frozen=True, slots=True)
class Address:
    """Something to connect to.

    Args:
        family: of the socket.
        target: what ``connect`` takes.
    """

    family: socket.AddressFamily
    target: Any


def literal_addresses(endpoint: Endpoint) -> list[Address] | None:
    """The address of an endpoint that names no host to look up; None: ``resolve_blocking`` must."""
    if endpoint.scheme == "unix":
        return [Address(socket.AF_UNIX, endpoint.path)]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, endpoint.host)
        except (OSError, ValueError):
            continue
        return [Address(family, (endpoint.host, endpoint.port))]
    return None


def resolve_blocking(endpoint: Endpoint) -> list[Address]:
    """Look a name up; asked anew for every connection, as the name may mean another address by now.

    Raises:
        ConnectError: the name means nothing here.
    """
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {endpoint}: {endpoint.host!r} is not a name or address here") from error
    return to_addresses(found)


def to_addresses(found: list[Any]) -> list[Address]:
    """What ``getaddrinfo`` found, each address once, in its order."""
    return list(dict.fromkeys(Address(family, target) for family, _, _, _, target in found))


def new_socket(address: Address, source: str = "", *, datagrams: bool = False) -> socket.socket:
    """An unconnected socket that notices dead peers and sends small requests at once.

    Args:
        address: what it will connect to.
        source: local address to connect from; empty: the system chooses.
        datagrams: it is for UDP.

    Raises:
        OSError: no descriptor is left, or the source is not an address of this machine.
    """
    sock = socket.socket(address.family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    try:
        if address.family != socket.AF_UNIX and not datagrams:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _OPTIONS:
                if option := getattr(socket, name, 0):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if source and address.family != socket.AF_UNIX:
            sock.bind((source, 0))
    except BaseException:
        sock.close()
        raise
    return sock


_OPTIONS: Final = (
    ("TCP_NODELAY", 1),
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
    ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
    ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ("TCP_USER_TIMEOUT", USER_TIMEOUT_S * 1000),
)

_HINTS: Final = {
    errno.ECONNREFUSED: "nobody listens there; is the device on, is the port right?",
    errno.EHOSTUNREACH: "there is no way to that host; is the device on, is the network right?",
    errno.ENETUNREACH: "there is no way to that network",
    errno.ECONNRESET: "the peer closed the connection at once; does it allow one client only?",
    errno.EADDRNOTAVAIL: "the source is not an address of this machine, or every local port is in use",
    errno.EMFILE: "this process has no descriptor left",
    errno.EAGAIN: "its queue of connections is full; is it stuck?",
    errno.ENOTCONN: "its queue of connections is full; is it stuck?",
    errno.ENOENT: "there is no such socket file",
    errno.EACCES: "permission denied",
}


def connect_error(endpoint: Endpoint, error: OSError, within_s: float) -> ConnectError:
    """The error to raise for a try to connect that failed."""
    if isinstance(error, TimeoutError):
        why = f"no answer within {within_s:.3g} s; is the address right, does a firewall drop it?"
    else:
        why = _why(error)
    return ConnectError(f"cannot connect to {endpoint}: {why}")


def _why(error: Exception) -> str:
    """What an error says, behind what it means and what to try, where that is known."""
    hint = _HINTS.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{hint} ({error})" if hint else str(error)


def no_connection_error(endpoint: Endpoint, last: ModbusError | None) -> ConnectError:
    """The error to raise where the time is over before a connection is there; ``last``: why the last try failed."""
    error = ConnectError(f"no connection to {endpoint} in time" + (f"; the last try: {last}" if last else ""))
    error.__cause__ = last
    return error


def lost_error(endpoint: Endpoint, reason: str, cause: Exception | None, when: str) -> ConnectionLostError:
    """The error to raise where a connection ended while something was under way.

    Args:
        endpoint: the peer.
        reason: why we gave it up; empty: the peer ended it.
        cause: what the system, or the framer, said.
        when: how far the request was.
    """
    by = "" if reason or cause is not None else " by the peer"
    why = f" ({reason})" if reason else f": {_why(cause)}" if cause is not None else ""
    kind = ClientClosedError if reason == CLOSED else ConnectionLostError
    error = kind(f"the connection to {endpoint} was ended{by} {when}{why}")
    error.__cause__ = cause
    return error
