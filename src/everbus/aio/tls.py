"""TLS on a transport of plain sockets: bytes in, bytes out, no task and no timer of its own.

asyncio's own costs 256 KiB of buffers for each connection, calls nobody when a handshake fails, and knows no
deadline but its own. This one is a protocol to the socket's transport and a transport to the connection's
protocol; both see what they see without it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from everbus.aio.transport import Sockets, SocketTransport

_RECEIVE_BYTES: Final = 4096

__all__ = ["ClientHandshake", "HandshakeOwner", "TlsTransport"]


class HandshakeOwner(Protocol):
    """Is told how a handshake goes, and tells the protocol of its connection, before or after it, as it likes."""

    def arrived(self, transport: TlsTransport) -> None:
        """The peer has begun; call ``shake`` now or later."""
        ...

    def established(self, transport: TlsTransport) -> None:
        """It is over; ``transport.tls`` knows the peer."""
        ...

    def failed(self, transport: TlsTransport, error: Exception) -> None:
        """It has failed; the peer is told. Close the connection."""
        ...

    def lost(self, transport: TlsTransport, error: Exception | None) -> None:
        """The socket is closed, and the handshake was not over or has failed; the protocol is not told."""
        ...


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """One TLS connection, between the transport of its socket and its protocol.

    Until the handshake is over the protocol gets nothing, and nothing may be written.

    Args:
        protocol: gets what is decrypted.
        owner: is told how the handshake goes.
        view: where what arrives is put, shared by all that run on one loop.
    """

    __slots__ = (
        "_error",
        "_established",
        "_incoming",
        "_lower",
        "_outgoing",
        "_owner",
        "_protocol",
        "_reading",
        "_view",
        "tls",
    )

    def __init__(self, protocol: asyncio.BufferedProtocol, owner: HandshakeOwner, view: memoryview[int]) -> None:
        self._protocol = protocol
        self._owner = owner
        self._view = view
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._established = False
        self._error: ssl.SSLError | None = None
        self._reading = True
        self.tls: ssl.SSLObject | None = None

    # The handshake

    def shake(self, context: ssl.SSLContext, *, server_hostname: str | None = None) -> None:
        """Begin the handshake, as a client where the server has a name; go on with what has arrived."""
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._lower.resume_reading()
        self._shake()

    def hold(self) -> None:
        """Read no more until ``shake`` is called."""
        self._lower.pause_reading()

    def _shake(self) -> None:
        assert self.tls is not None
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._owner.failed(self, error)
        else:
            self._established = True
            self._flush()
            self._owner.established(self)
            self._decrypt()

    # Called by the socket's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(SocketTransport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._view[:nbytes])
        if self._established:
            self._decrypt()
        elif self.tls is not None:
            self._shake()
        else:
            self._owner.arrived(self)

    def eof_received(self) -> bool:
        if self._established:
            return bool(self._protocol.eof_received())
        self._owner.failed(self, ConnectionResetError("the peer ended the connection"))
        return False

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._established:
            self._protocol.connection_lost(self._error or exc)
        else:
            self._owner.lost(self, exc)

    # Reading

    def _decrypt(self) -> None:
        """Give the protocol what has arrived, as long as it wants it."""
        tls, incoming, protocol, lower = self.tls, self._incoming, self._protocol, self._lower
        assert tls is not None
        while self._reading and (incoming.pending or tls.pending()) and not lower.is_closing():
            view = protocol.get_buffer(-1)
            try:
                size = tls.read(len(view), view)  # type: ignore[arg-type]  # typeshed wants a bytearray
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:  # an alert of the peer's too: in TLS 1.3 it refuses us so
                self._error = error
                self._flush()
                lower.abort()
                return
            if not size:  # the peer says that there is nothing behind
                if protocol.eof_received():
                    self.pause_reading()
                else:
                    self.close()
                return
            protocol.buffer_updated(cast(int, size))
        self._flush()  # what TLS says by itself

    def read_now(self) -> None:
        """Give the protocol what has arrived, without waiting for the loop's next turn."""
        self._lower.read_now()

    def is_reading(self) -> bool:
        """What arrives is read."""
        return self._reading

    def pause_reading(self) -> None:
        """Leave what arrives where it is. Idempotent."""
        self._reading = False
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Read again; what is here already comes with the next turn of the loop. Idempotent."""
        self._reading = True
        self._lower.resume_reading()
        if self._incoming.pending or (self.tls is not None and self.tls.pending()):
            asyncio.get_running_loop().call_soon(self._decrypt)

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send; what the socket does not take is kept encrypted. Ignored once it is closing."""
        if self._lower.is_closing():
            return
        assert self.tls is not None
        self.tls.write(data)  # all of it: a MemoryBIO takes whatever comes
        self._lower.write(self._outgoing.read())

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._lower.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water mark, in bytes."""
        return self._lower.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Over ``high`` unsent bytes the protocol is told to pause, at ``low`` to go on."""
        self._lower.set_write_buffer_limits(high, low)

    # The end

    def is_closing(self) -> bool:
        """It is closed, or closes once everything is sent."""
        return self._lower.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket`` and ``ssl_object``."""
        return self.tls if name == "ssl_object" else self._lower.get_extra_info(name, default)

    def close(self) -> None:
        """Say that nothing follows, send what is unsent, then close; the peer's word is not waited for."""
        if self._established and not self._lower.is_closing():
            assert self.tls is not None
            with suppress(ssl.SSLError):  # it wants the peer's word
                self.tls.unwrap()
            self._flush()
        self._lower.close()

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        self._lower.abort()

    def leave(self) -> None:
        """Close this copy of the socket without a word to its loop, which has ended or is another process's."""
        self._lower.leave()


class ClientHandshake:
    """The handshake of a client, which waits for it.

    Args:
        protocol: gets what is decrypted; it is told of its connection once that is secured.
    """

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        self._protocol = protocol
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, sockets: Sockets, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Secure a connected socket; it is its transport's from then on.

        Args:
            sockets: what reads and writes.
            sock: connected and non-blocking.
            context: whom we trust, and who we are.
            name: of the server, as its certificate must have it.

        Raises:
            OSError: the server is not who it should be, or refuses us; the socket is closed.
        """
        transport = TlsTransport(self._protocol, self, memoryview(bytearray(_RECEIVE_BYTES)))
        sockets.attach(sock, transport)
        try:
            transport.shake(context, server_hostname=name)
            await self._over
        except BaseException:
            transport.abort()
            raise

    def arrived(self, transport: TlsTransport) -> None:
        """Nothing can: we speak first."""

    def established(self, transport: TlsTransport) -> None:
        if not self._over.done():  # nobody waits any more
            self._over.set_result(None)
            self._protocol.connection_made(transport)

    def failed(self, transport: TlsTransport, error: Exception) -> None:
        transport.close()
        if not self._over.done():
            self._over.set_exception(error)

    def lost(self, transport: TlsTransport, error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(error or ConnectionResetError("the peer ended the connection"))
