"""The client's end of one connection on an event loop: bytes out, completions in, and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from everbus.aio.transport import Sockets, SocketTransport
from everbus.client.endpoint import Endpoint
from everbus.client.exchange import NOBODY
from everbus.errors import ClientClosedError, ConnectError, ConnectionLostError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.sockets import Address, connect_error, literal_addresses, new_socket, to_addresses

__all__ = ["CLOSED", "Deadlines", "Link", "open_link"]

CLOSED: Final = "closed"
"""The reason of a connection that the program closed."""

_RECEIVE_BYTES: Final = 4096


class Deadlines:
    """Ends futures that take too long, with the result None; one timer for all of them.

    Args:
        loop: the running loop.
    """

    __slots__ = ("_loop", "_timer", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any], until: float) -> None:
        """End a future then, unless somebody else does before."""
        self._until[future] = until
        if self._timer is None or until < self._timer.when():
            self._arm(until)

    def forget(self, future: asyncio.Future[Any]) -> None:
        """A future has ended. The timer stays: the next one is watched by it too."""
        self._until.pop(future, None)

    def _arm(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(until, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = monotonic()
        for future, until in list(self._until.items()):
            if until <= now:
                del self._until[future]
                if not future.done():
                    future.set_result(None)
        if self._until:
            self._arm(min(self._until.values()))

    def close(self) -> None:
        """No future is watched any more."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Link(asyncio.BufferedProtocol):
    """One connection. It owns its transport.

    Args:
        endpoint: the peer, for messages.
        session: its transactions.
        deadlines: ends questions that take too long.
        on_lost: called once, when the connection has ended.
    """

    def __init__(
        self, endpoint: Endpoint, session: ClientSession, deadlines: Deadlines, on_lost: Callable[[Link], None]
    ) -> None:
        self.session: ClientSession = session
        self._endpoint = endpoint
        self._deadlines = deadlines
        self._on_lost = on_lost
        self._transport: SocketTransport | None = None
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._unsent: list[bytes] = []
        self._asked: dict[int, asyncio.Future[Completion | None]] = {}
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""
        self.reason: str = ""
        """Why we gave it up; empty: the peer ended it."""

    @property
    def usable(self) -> bool:
        """It is up, and its bytes can be trusted."""
        return not (self.reason or self.session.broken or self.session.fault or self.closed.done())

    async def ask(self, transaction: int, data: bytes, until: float) -> Completion | None:
        """Send a request and wait for its end; None: not in time, or nobody answers it.

        Cancelling it is safe: the answer, should it come, goes to nobody.

        Raises:
            ConnectionLostError: the connection ended before.
        """
        transport = self._transport
        if transport is not None and self.session.most_in_flight == 1:
            transport.read_now()  # without ids, what lies unread would be taken for the answer
        if transport is None or transport.is_closing() or not self.usable:
            raise ConnectionLostError(f"the connection to {self._endpoint} ended before the request was sent")
        if self._asked:
            self._send_soon(data)
        else:
            transport.write(data)
        if transaction == NOBODY:
            return None
        future: asyncio.Future[Completion | None] = self._loop.create_future()
        self._asked[transaction] = future
        self._deadlines.watch(future, until)
        completion: Completion | None = None
        try:
            completion = await future
        finally:
            self._deadlines.forget(future)
            self._asked.pop(transaction, None)
            if completion is None and transport.get_write_buffer_size():
                self.close("takes_nothing")  # or it would go out when its caller has long been told
        return completion

    def _send_soon(self, data: bytes) -> None:
        """Send at the end of this turn, with what others send in it: only where several may be in flight."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._transport is not None:
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """End it now. Idempotent; the first reason stays."""
        self.reason = self.reason or reason
        if self._transport is not None:
            self._transport.abort()

    def disown(self) -> None:
        """Its loop has ended, or is another process's: close this copy of the socket, and nothing else."""
        self.reason = "forked"
        if self._transport is not None:
            self._transport.leave()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SocketTransport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        for completion in self.session.receive(self._buffer[:nbytes]):
            future = self._asked.get(completion.transaction)
            if future is not None and not future.done():
                future.set_result(completion)
        if self.session.fault is not None:
            self.close("not_modbus")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        why = f": {exc}" if exc is not None else " by the peer" if not self.reason else f" ({self.reason})"
        for future in self._asked.values():
            if not future.done():
                kind = ClientClosedError if self.reason == CLOSED else ConnectionLostError
                error = kind(f"the connection to {self._endpoint} was ended{why} before the answer came")
                error.__cause__ = self.session.fault or exc
                future.set_exception(error)
        self.closed.set_result(None)
        self._on_lost(self)


async def open_link(endpoint: Endpoint, source: str, within_s: float, link: Link) -> None:
    """Connect a link, trying each address of the endpoint's name in turn.

    Raises:
        ConnectError: none of them answers within the time; nothing is left open.
    """
    loop = asyncio.get_running_loop()
    error: OSError = TimeoutError()
    try:
        async with asyncio.timeout(within_s):
            addresses = literal_addresses(endpoint) or await _resolve(loop, endpoint)
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                try:
                    async with asyncio.timeout(within_s / left if left > 1 else None):
                        await _connect(loop, address, source, link)
                    return
                except OSError as failure:  # a TimeoutError of the inner time too
                    error = failure
    except TimeoutError as failure:
        error = failure
    raise connect_error(endpoint, error, within_s) from error


async def _resolve(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> list[Address]:
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {endpoint}: {endpoint.host!r} is not a name or address here") from error
    return to_addresses(list(found))


async def _connect(loop: asyncio.AbstractEventLoop, address: Address, source: str, link: Link) -> None:
    sock = new_socket(address, source)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address.target)
        sock.getpeername()  # a full Unix socket says EAGAIN, which the loop takes for "under way"
        Sockets(loop).attach(sock, link)
    except BaseException:
        sock.close()
        raise
