"""What becomes of an accepted socket: a connection that is admitted, of the kind its endpoint is for, or nothing."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any

from everbus.aio.connection import Connection, Shared
from everbus.aio.handshakes import Handshakes
from everbus.aio.line import LineConnection
from everbus.aio.listener import Listener, peer_name
from everbus.aio.transport import Sockets
from everbus.client.endpoint import Endpoint
from everbus.observe import Event, EventKind
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.table import FunctionTable
from everbus.service.context import ConnectionInfo
from everbus.service.multidrop import Multidrop
from everbus.tls import TlsOptions

__all__ = ["Reception"]


class Reception:
    """Makes the connections of one server, and counts them.

    Args:
        shared: what they have in common.
        devices: who answers where frames have no transaction ids.
        table: the function codes that the server knows.
        tls: how TLS is done, where an endpoint is under it.
    """

    def __init__(self, shared: Shared, devices: Multidrop, table: FunctionTable, tls: TlsOptions) -> None:
        self._shared = shared
        self._devices = devices
        self._table = table
        self._ids = 0
        self.sockets: Sockets = Sockets(asyncio.get_running_loop())
        self._handshakes = Handshakes(self.sockets, shared.limits, shared.observer, tls)
        self.opened: int = 0
        """Connections that were admitted."""

    def prepare(self, endpoint: Endpoint) -> None:
        """Load the certificates of an endpoint, if it is under TLS.

        Raises:
            ConfigurationError: they cannot be used.
        """
        self._handshakes.prepare(endpoint)

    def next_id(self) -> int:
        """A number for a peer: 1 and up, unique in its server."""
        self._ids += 1
        return self._ids

    def make_room(self) -> bool:
        """End a connection if one can be spared; tell whether."""
        return self._shared.registry.make_room(monotonic())

    def deliver(self, sock: socket.socket, address: Any, listener: Listener) -> None:
        """Admit an accepted socket, or close it at once; it counts from here on."""
        host, peer = peer_name(address)
        info = ConnectionInfo(self.next_id(), peer, host, str(listener.endpoint))
        connection = self._connection(info, listener.endpoint)
        reason = self._shared.registry.admit(connection, connection.opened_at)
        if reason is not None:
            sock.close()
            why = "the policy refuses its address" if reason == "policy" else "a limit is reached"
            self._notify(EventKind.CONNECTION_REFUSED, info, reason, f"closed at once, {why}")
            return
        self.opened += 1
        self._notify(EventKind.CONNECTION_OPENED, info)
        try:
            if (files := listener.endpoint.tls) is None:
                self.sockets.attach(sock, connection)
            else:
                self._handshakes.begin(sock, connection, files)
        except OSError as error:
            sock.close()
            connection.ended("setup")
            self._shared.observer.notify(Event(EventKind.ACCEPT_FAILED, peer, "setup", str(error), error=error))

    def _notify(self, kind: EventKind, info: ConnectionInfo, reason: str = "", detail: str = "") -> None:
        self._shared.observer.notify(Event(kind, info.peer, reason, detail, info.connection_id))

    def _connection(self, info: ConnectionInfo, endpoint: Endpoint) -> Connection:
        """The connection that speaks what an endpoint is for."""
        if endpoint.identified:
            return Connection(self._shared, info)
        framer = RtuFramer("request", self._table) if endpoint.framing == "rtu" else AsciiFramer()
        return LineConnection(self._shared, info, framer, self._devices)

    def sweep(self, now: float) -> None:
        """Enforce what depends on time, before connections have it in their own hands."""
        self._handshakes.sweep(now)
