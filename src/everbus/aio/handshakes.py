"""Who may do a TLS handshake now: few at once, each within its time, none of them in a task."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Final

from everbus.aio.connection import RECEIVE_BYTES, Connection
from everbus.aio.tls import TlsTransport
from everbus.aio.transport import Sockets
from everbus.client.endpoint import Endpoint, TlsFiles
from everbus.errors import ConfigurationError
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer
from everbus.tls import Certificates, TlsOptions, handshake_failure, peer_identity, server_context

__all__ = ["Handshakes"]

_SETTLED_S: Final = 1.0
"""So long a handshake is let alone while others wait."""


class Handshakes:
    """Brings connections of one server through their handshakes.

    They are members of the registry from the moment they are accepted, so that they count, are evicted and
    are closed as all others.

    Args:
        sockets: what reads and writes.
        limits: how many handshakes at once, and for how long.
        observer: told of those that fail, of roles that are none, and of certificates that change.
        options: how TLS is done.
    """

    def __init__(self, sockets: Sockets, limits: Limits, observer: Observer, options: TlsOptions) -> None:
        self._sockets = sockets
        self._limits = limits
        self._observer = observer
        self._make = partial(server_context, options=options)
        self._certificates: dict[TlsFiles, Certificates] = {}
        self._view = memoryview(bytearray(RECEIVE_BYTES))
        self._pending: dict[TlsTransport, tuple[Connection, Certificates]] = {}
        """All that are not over, the oldest first."""
        self._running: dict[TlsTransport, float] = {}
        self._waiting: dict[TlsTransport, None] = {}

    def __len__(self) -> int:
        """Connections whose handshake is not over."""
        return len(self._pending)

    def prepare(self, endpoint: Endpoint) -> None:
        """Load the certificates of an endpoint; nothing for one without TLS.

        Raises:
            ConfigurationError: they cannot be used.
        """
        files = endpoint.tls
        if files is not None and files not in self._certificates:
            self._certificates[files] = Certificates(files, self._make, partial(self._changed, str(endpoint)))

    def _changed(self, endpoint: str, error: ConfigurationError | None) -> None:
        if error is None:
            event = Event(EventKind.CERTIFICATES_RELOADED, endpoint, "changed")
        else:
            event = Event(EventKind.CERTIFICATES_REJECTED, endpoint, "kept_old", str(error), error=error)
        self._observer.notify(event)

    def begin(self, sock: socket.socket, connection: Connection, files: TlsFiles) -> None:
        """Serve an accepted socket once its handshake is over.

        Raises:
            OSError: the system cannot watch it; it still belongs to the caller.
        """
        transport = TlsTransport(connection, self, self._view)
        self._pending[transport] = connection, self._certificates[files]
        try:
            self._sockets.attach(sock, transport)
        except OSError:
            del self._pending[transport]
            raise
        connection.connection_made(transport)  # now: it may be evicted, closed or aborted before it is secured

    def sweep(self, now: float) -> None:
        """End what takes too long, and what keeps others waiting."""
        for connection, _ in list(self._pending.values()):
            if now - connection.opened_at < self._limits.handshake_timeout_s:
                break
            connection.abort("handshake_timeout")
        self._admit()

    def _admit(self) -> None:
        """Begin handshakes as long as there is room, the newest first: who waits long may have given up."""
        now = monotonic()
        while self._waiting and self._room(now):
            transport, _ = self._waiting.popitem()
            self._running[transport] = now
            transport.shake(self._pending[transport][1].current())

    def _room(self, now: float) -> bool:
        """Whether one more may begin; the oldest makes way for it once it had its time."""
        if len(self._running) < self._limits.max_handshakes:
            return True
        oldest, since = next(iter(self._running.items()))
        if now - since < _SETTLED_S:
            return False
        del self._running[oldest]
        self._pending[oldest][0].abort("evicted_handshake")
        return True

    # Called by the transports

    def arrived(self, transport: TlsTransport) -> None:
        transport.hold()
        self._waiting[transport] = None
        self._admit()

    def established(self, transport: TlsTransport) -> None:
        connection, _ = self._pending.pop(transport)
        self._over(transport)
        assert transport.tls is not None
        peer = peer_identity(transport.tls)
        connection.info = info = replace(connection.info, subject=peer.subject, role=peer.role)
        if peer.role_error is not None:
            text = f"{peer.subject}: {peer.role_error}"
            self._observer.notify(
                Event(EventKind.ROLE_REJECTED, info.peer, peer.role_error.reason, text, info.connection_id)
            )

    def failed(self, transport: TlsTransport, error: Exception) -> None:
        connection, _ = self._pending[transport]
        self._over(transport)
        failure = handshake_failure(error)
        info = connection.info
        self._observer.notify(
            Event(EventKind.HANDSHAKE_FAILED, info.peer, failure.reason, failure.message, info.connection_id, error)
        )
        connection.close("handshake")

    def lost(self, transport: TlsTransport, error: Exception | None) -> None:
        connection, _ = self._pending.pop(transport)
        self._over(transport)
        connection.connection_lost(error)

    def _over(self, transport: TlsTransport) -> None:
        self._running.pop(transport, None)
        self._waiting.pop(transport, None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._admit)
