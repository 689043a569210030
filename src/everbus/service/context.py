"""Who asks, and through what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everbus.service.authorize import Access

__all__ = ["ConnectionInfo", "RequestContext"]


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What stays the same for every request of one connection.

    Args:
        connection_id: 1 and up, unique in its server.
        peer: the other end's address and port, ``192.0.2.7:40112``; empty for a Unix socket's.
        host: the other end's address alone.
        endpoint: ours, as a URL.
        serial: it is a serial line: unit 0 is a broadcast there, and listen-only mode exists.
        subject: of the peer's certificate, under TLS.
        role: of the peer's certificate, under TLS (spec.md 6.3).
    """

    connection_id: int
    peer: str = ""
    host: str = ""
    endpoint: str = ""
    serial: bool = False
    subject: str | None = None
    role: str | None = None
    access: Access | None = field(default=None, init=False, repr=False, compare=False)
    """What the policy lets it do: the pipeline keeps here what it finds out at the first request."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a handler is told beside the request itself.

    Args:
        connection: who asks.
        unit: the unit that is asked, 0..255.
        transaction: MBAP transaction id, 0..65535; 0 on serial lines.
    """

    connection: ConnectionInfo
    unit: int
    transaction: int

    @property
    def peer(self) -> str:
        """The other end's address and port."""
        return self.connection.peer

    @property
    def connection_id(self) -> int:
        """The connection's number in its server."""
        return self.connection.connection_id

    @property
    def subject(self) -> str | None:
        """Subject of the peer's certificate, under TLS."""
        return self.connection.subject

    @property
    def role(self) -> str | None:
        """Role of the peer's certificate, under TLS."""
        return self.connection.role
