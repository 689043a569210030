"""Transports of plain sockets: what asyncio's own do, with less work.

asyncio's transport costs a task and seven turns of the loop for every connection, and for every read
a chain of calls that ends in ``recv_into``. This one asks the loop for nothing but to watch the
socket. What a protocol sees is the same: ``connection_made``, ``get_buffer``, ``buffer_updated``,
``eof_received``, ``pause_writing``, ``resume_writing``, ``connection_lost``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar, Final

__all__ = ["DatagramTransport", "SocketTransport", "Sockets"]

_LOW_WATER_DIVISOR: Final = 4
_DEFAULT_HIGH_WATER_BYTES: Final = 64 * 1024


class Sockets:
    """Knows whose socket is which, among those that it serves.

    Args:
        loop: the running loop.
    """

    __slots__ = ("_transports", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._transports: dict[int, SocketTransport] = {}

    def __contains__(self, number: object) -> bool:
        """Whether a socket with this descriptor is served."""
        return number in self._transports

    def attach(
        self,
        sock: socket.socket,
        protocol: asyncio.BufferedProtocol,
        kind: type[SocketTransport] | None = None,
    ) -> SocketTransport:
        """Serve a connected, non-blocking socket; it belongs to its transport from then on.

        Args:
            sock: the socket.
            protocol: gets what arrives.
            kind: of the transport; of streams by default.

        Raises:
            OSError: the system cannot watch it; it still belongs to the caller.
        """
        number = sock.fileno()
        if number in self._transports:
            self._transports.pop(number).disown()
        self.loop.remove_reader(number)  # whose descriptor it was before: with an entry left, this one stays deaf
        transport = (kind or SocketTransport)(self, sock, protocol)
        transport.start()
        self._transports[number] = transport
        protocol.connection_made(transport)
        return transport

    def forget(self, number: int, transport: SocketTransport) -> None:
        """A transport closes its socket."""
        if self._transports.get(number) is transport:
            del self._transports[number]


class SocketTransport(asyncio.Transport):
    """One connected socket. It calls its protocol as asyncio's own transports do.

    Args:
        sockets: knows it.
        sock: connected and non-blocking.
        protocol: gets what arrives.
    """

    _ends: ClassVar[bool] = True
    """To read nothing is the end; an empty datagram is none."""

    __slots__ = (
        "_closing",
        "_high",
        "_loop",
        "_low",
        "_number",
        "_paused",
        "_protocol",
        "_reading",
        "_recv_into",
        "_send",
        "_socket",
        "_sockets",
        "_unsent",
    )

    def __init__(self, sockets: Sockets, sock: socket.socket, protocol: asyncio.BufferedProtocol) -> None:
        self._sockets = sockets
        self._loop = sockets.loop
        self._socket = sock
        self._number = sock.fileno()
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._protocol = protocol
        self._unsent = bytearray()
        self._reading = False
        self._closing = False
        self._paused = False
        self.set_write_buffer_limits()

    def __repr__(self) -> str:
        return f"<SocketTransport {self._number} {'closing' if self._closing else 'open'}>"

    def disown(self) -> None:
        """Somebody else closed the socket, and its number is another's by now."""
        self._fail(OSError(errno.EBADF, "its descriptor was closed by somebody else"))
        self._socket.detach()

    def leave(self) -> None:
        """Close this copy of the socket without a word to its loop, which has ended or is another process's."""
        self._closing = True
        self._socket.close()

    # Reading

    def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._number, self._receive)
        self._reading = True

    def is_reading(self) -> bool:
        """What arrives is read."""
        return self._reading

    def pause_reading(self) -> None:
        """Leave what arrives in the socket. Idempotent."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._number)

    def resume_reading(self) -> None:
        """Read again. Idempotent; not once it is closing."""
        if not self._reading and not self._closing:
            self.start()

    def read_now(self) -> None:
        """Give the protocol what has arrived, without waiting for the loop's next turn."""
        if self._reading:
            self._receive()

    def _receive(self) -> None:
        protocol = self._protocol
        try:
            size = self._recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        try:
            if size:
                protocol.buffer_updated(size)
            elif not self._ends:
                return
            elif protocol.eof_received():
                self.pause_reading()  # for good: there is nothing behind an end
            else:
                self.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  the protocol's mistake costs this connection, not the others
            self._crash(error)

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send now what the socket takes, the rest when it takes more. Ignored once it is closing."""
        if self._closing:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._fail(error)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._number, self._flush)
        self._unsent += data[sent:]
        if not self._paused and len(self._unsent) > self._high:
            self._paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        try:
            del self._unsent[: self._send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._number)
            if self._closing:
                self._end(None)
        if self._paused and len(self._unsent) <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._unsent)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water mark, in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Over ``high`` unsent bytes the protocol is told to pause, at ``low`` to go on."""
        self._high = _DEFAULT_HIGH_WATER_BYTES if high is None else high
        self._low = self._high // _LOW_WATER_DIVISOR if low is None else low

    # The end

    def is_closing(self) -> bool:
        """It is closed, or closes once everything is sent."""
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket`` is all that it knows."""
        return self._socket if name == "socket" else default

    def close(self) -> None:
        """Read no more, send what is unsent, then close. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self.pause_reading()
        if not self._unsent:
            self._end(None)

    def abort(self) -> None:
        """Close now; what is unsent is lost. Idempotent."""
        self._fail(None)

    def _fail(self, error: Exception | None) -> None:
        """Close now, because of an error or because somebody wants it."""
        if self._closing and not self._unsent:
            return  # its end is under way
        self._closing = True
        self.pause_reading()
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._number)
        self._end(error)

    def _crash(self, error: BaseException) -> None:
        context = {"message": "Fatal error: a protocol failed.", "exception": error, "transport": self}
        self._loop.call_exception_handler(context | {"protocol": self._protocol})
        self._fail(error if isinstance(error, Exception) else None)

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol in the next turn: it may be in the middle of something now."""
        self._loop.call_soon(self._ended, error)

    def _ended(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sockets.forget(self._number, self)
            with suppress(OSError):  # somebody else closed it before
                self._socket.close()


class DatagramTransport(SocketTransport):
    """One connected socket of datagrams. What a protocol reads and writes at once is one of them.

    What the system does not take now is lost, as datagrams are: half of one is of no use to anybody.
    """

    __slots__ = ()
    _ends = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one datagram. Ignored once it is closing."""
        if self._closing:
            return
        try:
            self._send(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._fail(error)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send each as a datagram of its own."""
        for data in list_of_data:
            self.write(data)
