"""The client's end of one connection with a blocking caller, or with several threads that wait on it.

Its channel never blocks: waiting is ``poll``, which works with descriptors of any number, and a request
costs a system call less than with a socket that has a timeout.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol

from everbus.client.endpoint import Endpoint
from everbus.client.exchange import NOBODY
from everbus.errors import ConnectionLostError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.protocol.pdu.table import AnyRequest
from everbus.sockets import lost_error

__all__ = ["Channel", "Link", "SharedLink", "SharedSession"]

_RECEIVE_BYTES: Final = 16384
"""A TLS record: nothing that has arrived stays inside, where ``poll`` does not see it."""
_LOOK_MS: Final = 100
"""To close a serial port wakes nobody who waits for it: so often one looks whether that has happened."""


class Channel(Protocol):
    """What carries the bytes of a link, without blocking: a non-blocking socket, or what does as one."""

    def send(self, data: bytes, /) -> int:
        """Send; return how many bytes were taken. BlockingIOError: none now."""

    def recv(self, size: int, /) -> bytes:
        """What has arrived; empty: it has ended. BlockingIOError: nothing yet."""

    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class SharedSession(ClientSession):
    """A session that several threads use; see ``ClientSession`` for its arguments."""

    __slots__ = ("lock",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lock: threading.RLock = threading.RLock()
        """Held by whoever uses it."""

    def submit(self, unit: int, request: AnyRequest, pdu: bytes | None = None) -> tuple[int, bytes]:
        with self.lock:
            return super().submit(unit, request, pdu)

    def broadcast(self, request: AnyRequest) -> bytes:
        with self.lock:
            return super().broadcast(request)

    def timed_out(self, transaction: int) -> None:
        with self.lock:
            super().timed_out(transaction)

    def abandon(self, transaction: int) -> None:
        with self.lock:
            super().abandon(transaction)


class Link:
    """One connection that one caller at a time uses. It owns its channel.

    Args:
        endpoint: the peer, for messages.
        session: its transactions.
        channel: to the peer.
    """

    def __init__(self, endpoint: Endpoint, session: ClientSession, channel: Channel) -> None:
        self.session: ClientSession = session
        self._endpoint = endpoint
        self._channel = channel
        self._readable = _waiter(channel)
        self.last_used: float = monotonic()
        """When something last arrived."""
        self.reason: str = ""
        """Why we gave it up; empty: the peer ended it, or nobody did."""
        self.lost: bool = False
        """The peer ended it."""
        self.error: Exception | None = None
        """By which it ended, if that is known."""

    @property
    def usable(self) -> bool:
        """It is up, as far as it is known, and its bytes can be trusted."""
        return not (self.reason or self.lost or self.session.broken)

    def ask(self, transaction: int, data: bytes, until: float) -> Completion | None:
        """Send a request and wait for its end; None: not in time, or nobody answers it.

        Raises:
            ConnectionLostError: the connection ended before.
        """
        self.send(data, until)
        if transaction == NOBODY:
            return None
        now = self.last_used = monotonic()
        expected, size = self.session.expected(transaction)  # the peer works meanwhile
        while now < until:
            received = self._receive(until - now)
            if received:
                if len(received) == size and received.startswith(expected):
                    return self.session.receive_plain(transaction, received)
                for completion in self._take_in(received):
                    if completion.transaction == transaction:
                        return completion
            if self.lost or self.reason:
                raise self._ended("before the answer came")
            now, size = monotonic(), 0
        return None

    def _receive(self, within_s: float) -> bytes:
        """What arrives within the time, if anything does."""
        try:
            if not self._readable(within_s * 1000):
                return b""
            received = self._channel.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        except (OSError, ValueError) as error:  # a ValueError: another thread closed it
            self.lost, self.error = True, error
            return b""
        if not received:
            self.lost = True
        return received

    def _take_in(self, received: bytes) -> list[Completion]:
        """What ends with what has arrived."""
        completions = self.session.receive(received)
        if self.session.fault is not None:
            self.reason = self.reason or "not_modbus"
            self.error = self.session.fault
        return completions

    def check(self) -> None:
        """Notice what happened while nobody waited: an end, or bytes that nobody asked for."""
        received = self._receive(0.0)
        if received:
            self.last_used = monotonic()
            self._take_in(received)

    def send(self, data: bytes, until: float) -> None:
        """Send what may or may not be answered.

        Raises:
            ConnectionLostError: the connection has ended, or takes nothing until then.
        """
        try:
            sent = self._channel.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except (OSError, ValueError) as error:
            self.lost, self.error = True, error
            raise self._ended("before the request was sent") from error
        while sent < len(data):
            sent += self._send_rest(data[sent:], until)

    def _send_rest(self, data: bytes, until: float) -> int:
        try:
            if _waiter(self._channel, for_writing=True)(max(0.0, until - monotonic()) * 1000):
                return self._channel.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except (OSError, ValueError) as error:
            self.lost, self.error = True, error
            raise self._ended("before the request was sent") from error
        self.reason = self.reason or "takes_nothing"
        raise self._ended("as it takes nothing any more")

    def _ended(self, when: str) -> ConnectionLostError:
        return lost_error(self._endpoint, self.reason, self.error, when)

    def close(self, reason: str) -> None:
        """End it now; whoever waits is told. Idempotent; the first reason stays."""
        self.reason = self.reason or reason
        with suppress(OSError):  # it has ended already
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()

    def disown(self) -> None:
        """This is another process than the one that connected: close its copy, and leave the connection up."""
        self.reason = "forked"
        self._channel.close()


class SharedLink(Link):
    """One connection on which several threads have requests open.

    Whoever waits reads for all: one thread at a time takes what arrives, and wakes the others.
    """

    def __init__(self, endpoint: Endpoint, session: SharedSession, channel: Channel) -> None:
        super().__init__(endpoint, session, channel)
        self._news = threading.Condition(session.lock)
        self._sending = threading.Lock()
        self._asked: set[int] = set()
        self._done: dict[int, Completion] = {}
        self._reading = False

    def ask(self, transaction: int, data: bytes, until: float) -> Completion | None:
        reads = False
        try:
            with self._news:
                self._asked.add(transaction)
            if not self._send_in_turn(data, until):
                return None
            while transaction != NOBODY:
                with self._news:
                    while self._reading and transaction not in self._done and (left_s := until - monotonic()) > 0:
                        self._news.wait(left_s)
                    completion = self._done.get(transaction)
                    left_s = until - monotonic()
                    if completion is not None or left_s <= 0:
                        return completion
                    if self.lost or self.reason:
                        raise self._ended("before the answer came")
                    self._reading = reads = True
                self._read_for_all(left_s)
                reads = False
            return None
        finally:
            with self._news:
                self._asked.discard(transaction)
                self._done.pop(transaction, None)
                if reads:  # Ctrl-C: somebody else reads from now on
                    self._reading = False
                    self._news.notify_all()

    def _send_in_turn(self, data: bytes, until: float) -> bool:
        """Send a whole frame behind those of others; whether there was time for it."""
        ours = False
        try:
            ours = self._sending.acquire(timeout=max(0.0, until - monotonic()))
            if ours:
                self.send(data, until)
            return ours
        finally:
            if ours:
                self._sending.release()

    def _read_for_all(self, within_s: float) -> None:
        ready: object = True
        with suppress(OSError, ValueError):  # reading will tell
            ready = self._readable(within_s * 1000)
        with self._news:
            self._reading = False
            if ready:
                self._take_all()
            self._news.notify_all()

    def _take_all(self) -> None:
        """Take what has arrived; the lock is held. What nobody waits for any more is forgotten."""
        received = self._receive(0.0)
        if received:
            self.last_used: float = monotonic()
            for completion in self._take_in(received):
                if completion.transaction in self._asked:
                    self._done[completion.transaction] = completion

    def check(self) -> None:
        with self._news:
            if not self._reading:  # else whoever reads will tell
                self._take_all()
                self._news.notify_all()


def _waiter(channel: Channel, *, for_writing: bool = False) -> Callable[[float], object]:
    """A function that waits so many milliseconds until a channel is ready; what it returns is false if it is not."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLOUT if for_writing else select.POLLIN)
        if isinstance(channel, socket.socket):
            return poll.poll
        return lambda within_ms: poll.poll(min(within_ms, _LOOK_MS))
    channels = [channel]
    reading, writing = ([], channels) if for_writing else (channels, [])
    return lambda within_ms: any(select.select(reading, writing, [], within_ms / 1000))
