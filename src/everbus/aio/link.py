"""The client's end of one connection on an event loop: bytes out, completions in, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from ssl import SSLError
from typing import Final, Protocol, cast

from everbus.aio.calls import ASKED, Call
from everbus.client.endpoint import Endpoint
from everbus.client.exchange import NOBODY
from everbus.protocol.client_session import ClientSession, Completion
from everbus.sockets import lost_error
from everbus.tls import in_words

__all__ = ["Link", "LinkTransport"]

_RECEIVE_BYTES: Final = 4096


class LinkTransport(Protocol):
    """What a link needs of its transport: what ``asyncio.Transport`` has of this, and two things more."""

    def write(self, data: bytes) -> None: ...
    def writelines(self, list_of_data: Iterable[bytes]) -> None: ...
    def is_closing(self) -> bool: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...

    def read_now(self) -> None:
        """Give the link what has arrived, without waiting for the loop's next turn."""

    def leave(self) -> None:
        """Close this copy of the descriptor without a word to its loop, which has ended or is another process's."""


class Link(asyncio.BufferedProtocol):
    """One connection. It owns its transport.

    Args:
        endpoint: the peer, for messages.
        session: its transactions.
        resume: called with a call and its answer, or what ended it.
        on_lost: called once, when the connection has ended.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        session: ClientSession,
        resume: Callable[[Call, Completion | None, BaseException | None], None],
        on_lost: Callable[[Link], None],
    ) -> None:
        self.session: ClientSession = session
        self._endpoint = endpoint
        self._resume = resume
        self._on_lost = on_lost
        self._transport: LinkTransport | None = None
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._unsent: list[bytes] = []
        self._flushing = False
        self._asked: dict[int, Call] = {}
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""
        self.reason: str = ""
        """Why we gave it up; empty: the peer ended it."""
        self.error: Exception | None = None
        """By which it ended."""

    @property
    def usable(self) -> bool:
        """It is up, and its bytes can be trusted."""
        transport = self._transport
        return not (transport is None or transport.is_closing() or self.reason or self.session.broken)

    def check(self) -> None:
        """Take what lies unread: without ids it would be taken for the next answer."""
        if self._transport is not None:
            self._transport.read_now()

    @property
    def asked(self) -> list[Call]:
        """Who waits for an answer."""
        return list(self._asked.values())

    def ask(self, call: Call, transaction: int, data: bytes) -> None:
        """Send a request; its call is resumed with the answer. For ``NOBODY``, only send.

        Raises:
            ConnectionLostError: the connection ended before.
        """
        transport = self._transport
        if transport is None:
            raise lost_error(self._endpoint, self.reason, None, "before the request was sent")
        if transaction != NOBODY:
            call.state = ASKED
            call.transaction = transaction
            self._asked[transaction] = call
            if len(self._asked) > 1 or self._flushing:
                self._send_soon(data)
                return
        transport.write(data)

    def forget(self, call: Call) -> None:
        """Nobody waits for this answer any more."""
        del self._asked[call.transaction]
        if self._transport is not None and self._transport.get_write_buffer_size():
            self.close("takes_nothing")  # or it would go out when its caller has long been told

    def _send_soon(self, data: bytes) -> None:
        """Send at the end of this turn, with what others send in it: only where several may be in flight."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        self._flushing = False
        frames, self._unsent = self._unsent, []
        if frames and self._transport is not None:
            self._transport.writelines(frames)

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
        self._transport = cast("LinkTransport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        completions = self.session.receive(self._buffer[:nbytes])
        waits, self._flushing = not self._flushing, True
        for completion in completions:
            call = self._asked.pop(completion.transaction, None)
            if call is not None:
                self._resume(call, completion, None)
        if waits:
            self._flush()
        if self.session.fault is not None:
            self.close("not_modbus")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.error = in_words(exc) if isinstance(exc, SSLError) else exc
        self.closed.set_result(None)
        self._on_lost(self)
        calls, self._asked = list(self._asked.values()), {}
        for call in calls:
            cause = self.session.fault or self.error
            error = lost_error(self._endpoint, self.reason, cause, "before the answer came")
            self._resume(call, None, error)
