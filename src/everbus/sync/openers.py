"""How the link of a blocking client gets its channel, each kind of endpoint in its way.

What plain TCP does not need is loaded when it is: TLS, and serial ports.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeAlias

from everbus.client.endpoint import Endpoint, TlsFiles
from everbus.sockets import Address, connect_error, literal_addresses, new_socket, resolve_blocking
from everbus.sync.link import Channel

__all__ = ["DatagramSocket", "Opener", "SocketOpener", "opener"]


class Opener(Protocol):
    """Opens channels to one endpoint, one at a time."""

    def open(self, until: float) -> Channel:
        """A connected channel, until then at the latest.

        Raises:
            ConnectError: there is none; nothing is left open.
            ModbusTimeoutError: it has to be left alone for longer.
        """

    def close(self) -> None:
        """Let go of what outlives a channel. Idempotent, in any thread."""

    def leave(self) -> None:
        """This is another process than the one that opened: let go of this copy, and disturb nobody."""


def opener(endpoint: Endpoint, source: str) -> Opener:
    """The opener for an endpoint.

    Args:
        endpoint: the peer.
        source: local address to connect from; empty: the system chooses.

    Raises:
        ConfigurationError: its certificates cannot be used.
    """
    if endpoint.serial is None:
        return SocketOpener(endpoint, source)
    from everbus.sync.port import PortOpener  # noqa: PLC0415  others need no termios

    return PortOpener(endpoint, endpoint.serial)


_Attach: TypeAlias = Callable[[socket.socket], socket.socket]
"""Takes a connected socket over, within its timeout; closes it if that fails."""


class SocketOpener:
    """Opens sockets, trying each address of the endpoint's name in turn.

    Args:
        endpoint: the peer; its name is looked up for every connection.
        source: local address to connect from; empty: the system chooses.

    Raises:
        ConfigurationError: its certificates cannot be used.
    """

    def __init__(self, endpoint: Endpoint, source: str) -> None:
        self._endpoint = endpoint
        self._source = source
        self._datagrams = endpoint.scheme == "udp"
        self._attach: _Attach | None = DatagramSocket.of if self._datagrams else None
        if endpoint.tls is not None:
            self._attach = _securing(endpoint.tls, endpoint.host)

    def open(self, until: float) -> socket.socket:
        """As ``Opener.open``."""
        started = monotonic()
        addresses = literal_addresses(self._endpoint) or resolve_blocking(self._endpoint)
        error: OSError = TimeoutError()
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            now = monotonic()
            if now >= until:
                break
            try:
                return self._connected(address, now + (until - now) / left)
            except OSError as failure:
                error = failure
        raise connect_error(self._endpoint, error, max(0.0, until - started)) from error

    def _connected(self, address: Address, until: float) -> socket.socket:
        sock = new_socket(address, self._source, datagrams=self._datagrams)
        try:
            sock.settimeout(_left_s(until))
            sock.connect(address.target)
            if self._attach is not None:
                sock.settimeout(_left_s(until))
                sock = self._attach(sock)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Nothing outlives a connection."""

    def leave(self) -> None:
        """Nothing outlives a connection."""


def _left_s(until: float) -> float:
    """A timeout that ends then; 0 would mean not to wait at all."""
    return max(0.001, until - monotonic())


def _securing(files: TlsFiles, name: str) -> _Attach:
    """Certificates that changed are used by the next connection."""
    from everbus.sync.secure import SecureSocket  # noqa: PLC0415  others need no ssl
    from everbus.tls import Certificates, client_context  # noqa: PLC0415  as above

    certificates = Certificates(files, client_context, lambda _: None)
    return lambda sock: SecureSocket.wrap(sock, certificates.current(), name)


class DatagramSocket(socket.socket):
    """A connected socket of datagrams: what is read and written at once is one of them.

    What the system does not take now is lost, as datagrams are. An empty one is no end.
    """

    @classmethod
    def of(cls, sock: socket.socket) -> DatagramSocket:
        """Take a connected socket over."""
        return cls(fileno=sock.detach())

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        try:
            return super().send(data, flags)
        except BlockingIOError:
            return len(data)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if not data:
            raise BlockingIOError(errno.EAGAIN, "an empty datagram")
        return data
