"""How the link of a client gets its connection, each kind of endpoint in its way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ssl import SSLError
from typing import Protocol

from everbus.aio.link import Link
from everbus.aio.port import PortOpener
from everbus.aio.tls import ClientHandshake
from everbus.aio.transport import DatagramTransport, Sockets
from everbus.client.endpoint import Endpoint, TlsFiles
from everbus.errors import ConnectError
from everbus.sockets import Address, connect_error, literal_addresses, new_socket, to_addresses
from everbus.tls import Certificates, client_context, in_words

__all__ = ["Opener", "SocketOpener", "opener"]


class Opener(Protocol):
    """Opens connections to one endpoint, one at a time."""

    async def open(self, link: Link, within_s: float) -> None:
        """Connect a link.

        Raises:
            ConnectError: it cannot be done within the time; nothing is left open.
        """

    async def close(self) -> None:
        """Let go of what outlives a connection. Idempotent."""

    def leave(self) -> None:
        """Its loop has ended, or is another process's: let go of this copy, and disturb nobody."""


def opener(endpoint: Endpoint, source: str) -> Opener:
    """The opener for an endpoint.

    Args:
        endpoint: the peer.
        source: local address to connect from; empty: the system chooses.

    Raises:
        ConfigurationError: its certificates cannot be used.
    """
    if endpoint.serial is not None:
        return PortOpener(endpoint, endpoint.serial)
    return SocketOpener(endpoint, source)


class SocketOpener:
    """Opens connections of sockets, trying each address of the endpoint's name in turn.

    Args:
        endpoint: the peer; its name is looked up for every connection.
        source: local address to connect from; empty: the system chooses.

    Raises:
        ConfigurationError: its certificates cannot be used.
    """

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._endpoint = endpoint
        self._source = source
        self._attach = _plain if endpoint.tls is None else _secured(endpoint.tls, endpoint.host)
        if endpoint.scheme == "udp":
            self._attach = _datagrams

    async def open(self, link: Link, within_s: float) -> None:
        """As ``Opener.open``."""
        loop = asyncio.get_running_loop()
        error: OSError = TimeoutError()
        try:
            async with asyncio.timeout(within_s):
                addresses = literal_addresses(self._endpoint) or await _resolve(loop, self._endpoint)
                for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                    try:
                        async with asyncio.timeout(within_s / left if left > 1 else None):
                            await self._connect(loop, address, link)
                        return
                    except OSError as failure:  # a TimeoutError of the inner time too
                        error = failure
        except TimeoutError as failure:
            error = failure
        if isinstance(error, SSLError):
            error = in_words(error)
        raise connect_error(self._endpoint, error, within_s) from error

    async def _connect(self, loop: asyncio.AbstractEventLoop, address: Address, link: Link) -> None:
        sock = new_socket(address, self._source, datagrams=self._endpoint.scheme == "udp")
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address.target)
            sock.getpeername()  # a full Unix socket says EAGAIN, which the loop takes for "under way"
            await self._attach(Sockets(loop), sock, link)
        except BaseException:
            sock.close()
            raise

    async def close(self) -> None:
        """Nothing outlives a connection."""

    def leave(self) -> None:
        """Nothing outlives a connection."""


async def _resolve(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> list[Address]:
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {endpoint}: {endpoint.host!r} is not a name or address here") from error
    return to_addresses(list(found))


async def _plain(sockets: Sockets, sock: socket.socket, link: Link) -> None:
    sockets.attach(sock, link)


async def _datagrams(sockets: Sockets, sock: socket.socket, link: Link) -> None:
    sockets.attach(sock, link, DatagramTransport)


def _secured(files: TlsFiles, name: str) -> Callable[[Sockets, socket.socket, Link], Awaitable[None]]:
    """Certificates that changed are used by the next connection."""
    certificates = Certificates(files, client_context, lambda _: None)

    async def attach(sockets: Sockets, sock: socket.socket, link: Link) -> None:
        await ClientHandshake(link).run(sockets, sock, certificates.current(), name)

    return attach
