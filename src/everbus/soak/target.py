"""The server that a run talks to, and the connections to it: every wait of theirs ends with the run."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from everbus.client.endpoint import Endpoint
from everbus.errors import ClientClosedError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from everbus.soak.asking import ClientTotals

__all__ = [
    "CutShortError",
    "CycleFailedError",
    "FailureKind",
    "Link",
    "Stop",
    "Target",
    "TurnedAwayError",
    "kind_of",
    "no_answer",
    "resolve",
]

_RECEIVE_BYTES: Final = 4096
_SHORTAGES: Final = frozenset({errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
_SHORTAGE_S: Final = 90.0
_SHORTAGE_RETRY_S: Final = 0.1
_RESET_ON_CLOSE: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)

T = TypeVar("T")


class FailureKind(StrEnum):
    """Why a cycle failed, or a polite client."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    BAD_ANSWER = "bad_answer"
    MISSING = "missing_answer"
    FOREIGN = "foreign_answer"
    HELD = "held"
    DEAF = "deaf"
    OTHER = "other"


class CycleFailedError(Exception):
    """A cycle did not go as it must.

    Args:
        kind: why.
        message: words for people.
        connected: the connection had been made.
    """

    def __init__(self, kind: FailureKind, message: str, connected: bool = True) -> None:
        self.kind = kind
        self.connected = connected
        super().__init__(message)


class CutShortError(Exception):
    """The run ended in the middle of this cycle: it shows nothing."""


class TurnedAwayError(Exception):
    """The server closed this connection instead of an answer, as it may here: the cycle is well without one."""


class Stop:
    """Tells every thread that the run ends, also those that wait for a socket. Holds two descriptors."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self._endings: set[Callable[[], object]] = set()

    def set(self) -> None:
        """End what waits now, and whatever begins to wait later."""
        self._event.set()
        self._writer.close()
        with self._lock:
            endings = list(self._endings)
        for end in endings:
            end()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Within the block, being told calls this too: it ends what cannot wait for a descriptor of ours.

        Whoever begins such a wait looks at ``is_set`` before: the call may have been just then.
        """
        with self._lock:
            self._endings.add(end)
        try:
            yield
        finally:
            with self._lock:
                self._endings.discard(end)

    def is_set(self) -> bool:
        """It has been told."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is told; whether it was."""
        return self._event.wait(max(seconds, 0))

    def fileno(self) -> int:
        """A descriptor that is readable from then on."""
        return self._reader.fileno()

    def close(self) -> None:
        """Tell, and give the descriptors back; nobody may wait any more."""
        self.set()
        self._reader.close()


@dataclass(frozen=True, slots=True)
class Target:
    """A server, resolved: where each connection of a run goes.

    Args:
        family: AF_INET, AF_INET6 or AF_UNIX.
        address: what ``socket.connect`` takes.
        unit: the unit that is asked, 0..255.
        timeout_s: for a connection to be made, and for an answer to be whole.
        hold_s: how long a server may hold what it should have given up.
        stop: ends every wait; None: nothing does.
        totals: takes what everbus's own clients counted; None: nobody wants to know.
    """

    family: int
    address: Any
    unit: int = 1
    timeout_s: float = 3.0
    hold_s: float = 30.0
    stop: Stop | None = None
    totals: ClientTotals | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The same for a client."""
        if self.family == socket.AF_UNIX:
            return Endpoint("unix", path=self.address)
        host, port, *scope = self.address
        zone = f"%{scope[1]}" if scope and scope[1] else ""
        return Endpoint("tcp", host=f"{host}{zone}", port=port)

    def go_on(self) -> None:
        """Raise CutShortError if the run has ended."""
        if self.stop is not None and self.stop.is_set():
            raise CutShortError

    def connect(self, receive_buffer_bytes: int = 0) -> Link:
        """A new connection.

        Args:
            receive_buffer_bytes: what the kernel may keep for a client that does not read; 0: as usual.

        Raises:
            As ``reach``.
        """
        return Link(self.reach(lambda: self._connect_once(receive_buffer_bytes)), self.stop)

    def reach(self, connect: Callable[[], T]) -> T:
        """What this makes of a connection to the server.

        Where this machine has no port or descriptor left for one, that is not the server's fault:
        it waits, for the ports of closed connections come back after a minute.

        Args:
            connect: raises OSError, or a ConnectError that was caused by one, where there is none.

        Raises:
            CycleFailedError: the server did not take it.
            ConnectError: this machine could not make one for 90 s.
            CutShortError: the run has ended.
        """
        give_up = time.monotonic() + _SHORTAGE_S
        while True:
            self.go_on()
            try:
                return connect()
            except ClientClosedError as error:
                raise CutShortError from error
            except OSError as error:
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                if cause.errno not in _SHORTAGES:
                    message = f"cannot connect: {_words(cause)}"
                    raise CycleFailedError(kind_of(cause), message, connected=False) from error
                if time.monotonic() > give_up:
                    raise ConnectError(f"this machine can make no more connections: {_words(cause)}") from error
            time.sleep(_SHORTAGE_RETRY_S)

    def _connect_once(self, receive_buffer_bytes: int) -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            if receive_buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            if self.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(self.timeout_s)
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock


class Link:
    """One connection. Times are those of ``time.monotonic``.

    Args:
        sock: a connected socket, which belongs to it from now on.
        stop: ends every wait, with CutShortError; None: nothing does.
    """

    def __init__(self, sock: socket.socket, stop: Stop | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._stop = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def reset(self) -> None:
        """Close it at once, with a reset instead of a farewell."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it.

        Raises:
            OSError: the connection is lost; TimeoutError: the other end did not take it in time.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self.send_some(rest) :]
            if rest and not self._wait(deadline, to_send=True):
                raise TimeoutError("timed out")

    def send_some(self, data: bytes | memoryview) -> int:
        """Send what goes without waiting; how many bytes that was.

        Raises:
            OSError: the connection is lost.
        """
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self, deadline: float, at_most: int = _RECEIVE_BYTES) -> bytes:
        """What has come, one byte at least; nothing at the end of the stream.

        Raises:
            OSError: the connection is lost; TimeoutError: nothing came in time.
        """
        while time.monotonic() < deadline and self.readable(deadline):
            try:
                return self._sock.recv(at_most)
            except BlockingIOError:
                continue
        raise TimeoutError("timed out")

    def readable(self, deadline: float) -> bool:
        """Wait until there is something to receive, the end or an error included; False: not in time."""
        return self._wait(deadline)

    def rest(self, until: float) -> None:
        """Leave the connection alone until then."""
        if self._stop is None:
            time.sleep(max(until - time.monotonic(), 0))
        elif self._stop.wait(until - time.monotonic()):
            raise CutShortError

    def _wait(self, deadline: float, to_send: bool = False) -> bool:
        wait_s = max(deadline - time.monotonic(), 0.0)
        if self._stop is None:
            return _ready(self._sock.fileno(), [], to_send, wait_s)
        if self._stop.is_set():
            raise CutShortError
        ready = _ready(self._sock.fileno(), [self._stop.fileno()], to_send, wait_s)
        if self._stop.is_set():
            raise CutShortError
        return ready


def _ready(number: int, others: list[int], to_send: bool, wait_s: float) -> bool:
    """Wait for one descriptor, or until one of the others can be read; whether it was the one."""
    if not hasattr(select, "poll"):  # Windows, where select knows no upper bound for the numbers
        reading = others if to_send else [number, *others]
        readable, writable, _ = select.select(reading, [number] if to_send else [], [], wait_s)
        return number in readable or number in writable
    poll = select.poll()
    poll.register(number, select.POLLOUT if to_send else select.POLLIN)
    for other in others:
        poll.register(other, select.POLLIN)
    return any(found == number for found, _ in poll.poll(wait_s * 1000))


def resolve(endpoint: Endpoint, **settings: Any) -> list[Target]:
    """Every address of an endpoint, in the system's order.

    Args:
        endpoint: the server's.
        settings: of each target, but for its family and address.

    Raises:
        ConnectError: its name is not known.
    """
    if endpoint.scheme == "unix":
        return [Target(socket.AF_UNIX, endpoint.path, **settings)]
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"cannot find {endpoint.host!r}: {_words(error)}; check the name, or give an address"
        raise ConnectError(message) from error
    return [Target(family, address, **settings) for family, _, _, _, address in found]


def no_answer(error: OSError) -> CycleFailedError:
    """The failure of a cycle whose connection broke, or whose answer did not come in time."""
    return CycleFailedError(kind_of(error), f"no answer: {_words(error)}")


def kind_of(error: OSError) -> FailureKind:
    """Why a connection was not made, or broke."""
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return FailureKind.REFUSED
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ConnectionError):
        return FailureKind.RESET
    return FailureKind.OTHER


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
