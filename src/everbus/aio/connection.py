"""One accepted connection: bytes to session, requests to pipeline, answers back, and its end.

A ``BufferedProtocol``: all connections of a server share one receive buffer, as nothing runs
between ``get_buffer`` and ``buffer_updated``. A request for local data is answered inside
``buffer_updated``, without a task; all requests of one read leave in one write.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from ssl import SSLError
from time import monotonic
from typing import Any, Final, cast

from everbus.aio.handlers import Handlers
from everbus.aio.registry import Registry
from everbus.aio.statistics import ConnectionStatistics
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.server_session import ServerSession
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pending, Pipeline

__all__ = ["Connection", "Shared"]

_TOUCH_EVERY_S: Final = 0.05
"""Who was active when is known to this precision; a busy client costs no bookkeeping."""

_DEAD: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
"""What keepalive and TCP_USER_TIMEOUT end a connection with, the network's last complaint included."""

RECEIVE_BYTES: Final = 8192
"""One turn of one client: at most about 680 requests, then the others have theirs."""


class Shared:
    """What all connections of one server have in common."""

    __slots__ = ("abandoned", "limits", "make_framer", "observer", "pipeline", "registry", "requests", "view", "wake")

    def __init__(
        self,
        pipeline: Pipeline,
        registry: Registry,
        limits: Limits,
        observer: Observer,
        make_framer: Callable[[], Framer],
    ) -> None:
        self.pipeline: Pipeline = pipeline
        self.registry: Registry = registry
        self.limits: Limits = limits
        self.observer: Observer = observer
        self.make_framer: Callable[[], Framer] = make_framer
        self.view: memoryview[int] = memoryview(bytearray(RECEIVE_BYTES))
        self.requests: int = 0
        self.wake: asyncio.Event = asyncio.Event()
        """Set when the last connection has ended, and when a stop is in a hurry."""
        self.abandoned: set[asyncio.Future[object]] = set()
        """Cancelled handlers that have not ended yet; their results are discarded."""


class Connection(asyncio.BufferedProtocol):
    """The server's end of one connection. It owns its transport and its handlers' tasks.

    Args:
        shared: what it has in common with the others.
        info: who is at the other end.
        session: parses what comes and builds what is answered; by default that of Modbus TCP.
    """

    __slots__ = (
        "_blocked_since",
        "_closing_since",
        "_finishing",
        "_frame_started",
        "_handlers",
        "_reading_paused",
        "_reason",
        "_session",
        "_shared",
        "_touch_due",
        "_transport",
        "info",
        "last_active",
        "opened_at",
        "requests",
    )

    def __init__(self, shared: Shared, info: ConnectionInfo, session: ServerSession | None = None) -> None:
        limits = shared.limits
        self._shared = shared
        self._session = session or ServerSession(shared.make_framer(), limits.max_in_flight)
        self._transport: asyncio.Transport | None = None
        self._handlers = Handlers[int](shared.pipeline, limits.handler_timeout_s, shared.abandoned, self._finish)
        self._frame_started: float | None = None
        self._blocked_since: float | None = None
        self._closing_since: float | None = None
        self._reading_paused = False
        self._finishing = False
        self._reason = ""
        self._touch_due = 0.0
        self.info: ConnectionInfo = info
        self.opened_at: float = monotonic()
        self.last_active: float = self.opened_at
        self.requests: int = 0

    @property
    def host(self) -> str:
        return self.info.host

    @property
    def busy(self) -> bool:
        return self._session.busy

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of what it has done."""
        return ConnectionStatistics(
            self.requests, self._session.in_flight, self.unsent_bytes, self.opened_at, self.last_active
        )

    def __repr__(self) -> str:
        return f"<Connection {self.info.connection_id} {self.info.peer} {self._reason or 'open'}>"

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._shared.limits.write_high_water_bytes)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared.view

    def buffer_updated(self, nbytes: int) -> None:
        shared = self._shared
        session = self._session
        frames = session.receive(shared.view[:nbytes])
        if frames:
            self._take(frames)
        if session.partial:
            if self._frame_started is None:
                self._frame_started = monotonic()
                shared.registry.watched.add(self)
        elif session.fault is not None:
            self._reject()

    def eof_received(self) -> bool:
        """The peer has no more requests: what it asked is answered, then the connection closes."""
        self._finish_up("peer_closed")
        return self._session.busy

    def pause_writing(self) -> None:
        self._blocked_since = monotonic()
        self._shared.registry.watched.add(self)
        self._shared.registry.unsent.add(self)
        self._update_reading()
        self._shared.registry.shed()

    def resume_writing(self) -> None:
        self._blocked_since = None
        self._update_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended(_reason_of(exc))

    # Requests and answers

    def _take(self, frames: list[Frame]) -> None:
        """Note requests that have come, and serve them."""
        shared = self._shared
        self.requests += len(frames)
        shared.requests += len(frames)
        now = self.last_active = monotonic()
        if now >= self._touch_due:
            self._touch_due = now + _TOUCH_EVERY_S
            shared.registry.touch(self)
        self._frame_started = None
        self._serve(frames)

    def _serve(self, frames: list[Frame]) -> None:
        """Answer requests in order; hold those that come while too many wait for their handlers."""
        session = self._session
        answer_to = self._shared.pipeline.answer
        reply = session.reply
        info = self.info
        out: list[bytes] = []
        for index, frame in enumerate(frames):
            answer = answer_to(frame, info)
            if isinstance(answer, bytes):
                unit, _, transaction = frame
                out.append(reply(unit, answer, transaction))
            elif answer is not None:
                self._start(frame, answer)
                if session.full:
                    session.hold(frames[index + 1 :])
                    self._update_reading()
                    break
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def _start(self, frame: Frame, pending: Pending) -> None:
        """Run a handler that needs time."""
        self._handlers.start(self._session.defer(frame), pending)
        self._shared.registry.watched.add(self)

    def _finish(self, token: int, pdu: bytes | None) -> None:
        """Answer a deferred request, then go on with what was held."""
        session = self._session
        self.last_active = monotonic()
        self._shared.registry.touch(self)
        data = session.finish(token, pdu)
        if data:
            self._write(data)
        held = session.release()
        if held:
            self._serve(held)
        self._update_reading()
        if self._finishing and not session.busy:
            self.close(self._reason)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size():
            self._shared.registry.unsent.add(self)

    def _update_reading(self) -> None:
        """Read unless the peer does not, or as many requests wait as may."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        pause = self._blocked_since is not None or self._session.full or self._finishing
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                transport.pause_reading()
            else:
                transport.resume_reading()
                if self._frame_started is not None:
                    self._frame_started = monotonic()

    def _reject(self) -> None:
        """The stream is not Modbus: what came before is answered, then it closes."""
        fault = self._session.fault
        if fault is None or self._reason:
            return
        self._notify(EventKind.FRAME_REJECTED, fault.reason, str(fault), fault)
        self._finish_up(fault.reason)

    # Deadlines and endings

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of this connection: frame, write, handler, close."""
        limits = self._shared.limits
        if self._closing_since is not None:
            if now - self._closing_since >= limits.write_timeout_s:
                self.abort("write_timeout")
        elif self._blocked_since is not None and now - self._blocked_since >= limits.write_timeout_s:
            self.abort("write_timeout")
        elif self._frame_overdue(now):
            self.abort("frame_timeout")
        elif self._peer_is_gone():
            self.abort("reset")
        else:
            self._handlers.expire(now)
            if not (self._handlers or self._frame_started or self._blocked_since):
                self._shared.registry.watched.discard(self)

    def _frame_overdue(self, now: float) -> bool:
        """The rest of a frame is late, and not because nobody reads it here."""
        if self._frame_started is None or self._reading_paused:
            return False
        return now - self._frame_started >= self._shared.limits.frame_timeout_s

    def _peer_is_gone(self) -> bool:
        """The connection was reset while handlers run and nobody reads it here, who would have noticed."""
        transport = self._transport
        if transport is None or transport.is_closing() or not self._handlers:
            return False
        if not (self._reading_paused or self._finishing):
            return False
        sock = transport.get_extra_info("socket")
        return sock is not None and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def drain(self) -> None:
        """Close now if idle, else after the last answer."""
        self._finish_up("stopping")

    def exempt(self, future: asyncio.Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        self._handlers.exempt(future)

    def _finish_up(self, reason: str) -> None:
        """Read no more; close once everything that was asked is answered."""
        self._reason = self._reason or reason
        self._finishing = True
        self._frame_started = None  # the rest of a frame does not matter any more
        if self._session.busy:
            self._update_reading()
        else:
            self.close(reason)

    def close(self, reason: str) -> None:
        """Close once what is written is sent; if the peer does not take it, abort at the write timeout."""
        self._reason = self._reason or reason
        if self._closing_since is None and self._transport is not None:
            self._closing_since = monotonic()
            self._shared.registry.watched.add(self)
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is not sent is lost. The first reason stays."""
        if self._closing_since is None:
            self._closing_since = monotonic()
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def ended(self, reason: str) -> None:
        """The socket is closed, or never became a connection: give the slot back, once."""
        self._reason = self._reason or reason
        self._handlers.abandon_all()
        self._shared.registry.discard(self)
        if not len(self._shared.registry):
            self._shared.wake.set()
        evicted = self._reason.startswith("evicted")
        kind = EventKind.CONNECTION_EVICTED if evicted else EventKind.CONNECTION_CLOSED
        self._notify(kind, self._reason, f"{self.requests} requests")
        self._transport = None

    def _notify(self, kind: EventKind, reason: str, detail: str, error: BaseException | None = None) -> None:
        info = self.info
        self._shared.observer.notify(Event(kind, info.peer, reason, detail, info.connection_id, error))


def _reason_of(error: Exception | None) -> str:
    """Why a connection ended by itself."""
    if error is None:
        return "peer_closed"
    if isinstance(error, SSLError):
        return "tls_error"
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _DEAD):
        return "dead_peer"
    if isinstance(error, ConnectionError):
        return "reset"
    return "network_error"
