"""A device that misbehaves on request: for tests of clients, ours and anybody's.

It runs in a thread of its own over real sockets, so it serves tests with and without an event loop.
Unless its script says otherwise it answers truthfully, from a bank. The steps are made in ``steps``.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from inspect import iscoroutine
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, Literal, NamedTuple, Self

from everbus.errors import UsageError
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.testing.steps import (
    Step,
    Turn,
    answer,
    close,
    drip,
    duplicate,
    exception,
    glued,
    hold,
    late,
    lying_byte_count,
    partial,
    pdu,
    raw,
    reset,
    restart,
    silent,
    split,
    swapped_transaction,
    wrong_count,
    wrong_echo,
    wrong_function,
    wrong_protocol,
    wrong_transaction,
    wrong_unit,
)

__all__ = [
    "Received",
    "ScriptedPeer",
    "Step",
    "Turn",
    "answer",
    "close",
    "drip",
    "duplicate",
    "exception",
    "glued",
    "hold",
    "late",
    "lying_byte_count",
    "partial",
    "pdu",
    "raw",
    "reset",
    "restart",
    "silent",
    "split",
    "swapped_transaction",
    "wrong_count",
    "wrong_echo",
    "wrong_function",
    "wrong_protocol",
    "wrong_transaction",
    "wrong_unit",
]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_READ_BYTES: Final = 4096
_JOB_TIMEOUT_S: Final = 5.0


class Received(NamedTuple):
    """A request as it came in.

    Args:
        connection: 1 and up.
        frame: unit, PDU and transaction.
        at: monotonic seconds.
    """

    connection: int
    frame: Frame
    at: float


class _Conversation:
    """One connection, as steps see it."""

    def __init__(self, peer: ScriptedPeer, number: int, sock: socket.socket, framer: Framer) -> None:
        self._peer = peer
        self.number = number
        self.sock = sock
        self.framer: Framer = framer
        self.kept = bytearray()
        self.held: list[bytes] = []
        self.unsent = bytearray()

    def send(self, data: bytes) -> None:
        self._peer._send(self, data)

    def later(self, after_s: float, data: bytes) -> None:
        self._peer._later(after_s, lambda: self.send(data))

    def end(self, *, reset: bool = False) -> None:
        self._peer._end(self, reset=reset)

    def restart(self, after_s: float) -> None:
        self._peer._restart(after_s)


class ScriptedPeer:
    """A small device with a script, in a thread of its own. A context manager: it serves inside, once.

    Args:
        script: a step for each request in the order in which they come, over all connections; when
            it has ended, ``answer``. Or one function that is the step for all.
        host: address to listen on; a path listens there instead, as a Unix socket.
        framing: ``mbap``, or ``rtu`` for RTU frames over the stream.
        device: what it answers from: a bank, a device, anything that a server takes and that answers
            without waiting; a bank of zeros by default.

    What a step raises ends all connections, and is raised when the peer is left. A connection that
    brings what is not Modbus is closed. With the blocking client::

        with ScriptedPeer([late(0.2)]) as peer, Client(peer.url, timeout_s=0.1, retries=0) as client:
            with pytest.raises(ModbusTimeoutError):
                client.unit(1).read_holding_registers(0, 2)

    and with the asynchronous one, in ``async def``::

        with ScriptedPeer([silent] * 2) as peer:
            async with AsyncClient(peer.url, timeout_s=0.1) as client:
                with pytest.raises(ModbusTimeoutError):
                    await client.unit(1).read_coils(0, 8)
        assert [received.frame.unit for received in peer.requests] == [1, 1]
    """

    def __init__(
        self,
        script: Iterable[Step] | Step = (),
        *,
        host: str = "127.0.0.1",
        framing: Literal["mbap", "rtu"] = "mbap",
        device: UnitSource | None = None,
    ) -> None:
        self._script: Iterator[Step] = iter(()) if callable(script) else iter(script)
        self._otherwise: Step = script if callable(script) else answer
        self._path = Path(host) if host.startswith("/") else None
        self._host = host
        self._port = 0
        self._framing = framing
        self._pipeline = Pipeline(as_units(device if device is not None else Bank()))
        self.requests: list[Received] = []
        """What came in, in order."""
        self.connections: int = 0
        """How many were accepted."""
        self._conversations: dict[int, _Conversation] = {}
        self._listener: socket.socket | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._jobs: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._thread = threading.Thread(target=self._serve, name="scripted-peer", daemon=True)
        self._stopped = False
        self._failure: Exception | None = None

    @property
    def url(self) -> str:
        """Where it listens, for a client."""
        if self._path:
            return f"unix://{self._path}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'rtu+tcp' if self._framing == 'rtu' else 'tcp'}://{host}:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._conversations)

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        self._ours, self._waker = socket.socketpair()
        try:
            self._ours.setblocking(False)
            self._selector.register(self._ours, selectors.EVENT_READ, self._on_wake)
            self._listen()
            self._thread.start()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._thread.join()
        self._release()
        if self._failure is not None:
            raise self._failure

    def _release(self) -> None:
        for resource in (self._ours, self._waker, self._selector):
            resource.close()

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._do(self._close_listener)

    def listen_again(self) -> None:
        """Listen again, where it did."""
        self._do(self._listen)

    def restart(self, after_s: float = 0.0) -> None:
        """End every connection and listen no more; listen at the same place again so many seconds later."""
        self._do(lambda: self._restart(after_s))

    def drop_connections(self, *, reset: bool = False) -> None:
        """End every connection."""
        self._do(lambda: self._for_each(lambda each: self._end(each, reset=reset)))

    def push(self, data: bytes) -> None:
        """Send bytes that nobody asked for, through every connection."""
        self._do(lambda: self._for_each(lambda each: self._send(each, data)))

    def _do(self, job: Callable[[], None]) -> None:
        """Have its thread do something, and wait for it: what it raises is raised here."""
        if threading.current_thread() is self._thread:  # a step asks for it
            job()
            return
        if not self._thread.is_alive():
            raise UsageError("the peer does not run: use it inside of its with block")
        done: Future[None] = Future()
        self._jobs.append((job, done))
        self._waker.send(b"!")
        done.result(_JOB_TIMEOUT_S)

    # In its thread

    def _serve(self) -> None:
        while not self._stopped:
            wait_s = max(0.0, self._timers[0][0] - monotonic()) if self._timers else None
            for key, _ in self._selector.select(wait_s):
                self._guarded(key.data)
            while self._timers and self._timers[0][0] <= monotonic():
                self._guarded(heapq.heappop(self._timers)[2])

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001  raised again by whoever leaves the peer
            self._failure = self._failure or error
            self._for_each(self._end)

    def _on_wake(self) -> None:
        self._ours.recv(_READ_BYTES)
        while self._jobs:
            job, done = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # noqa: BLE001  raised again by whoever asked for the job
                done.set_exception(error)
            else:
                done.set_result(None)

    def _stop(self) -> None:
        self._stopped = True
        self._close_listener()
        self._for_each(self._end)

    def _for_each(self, job: Callable[[_Conversation], None]) -> None:
        for conversation in list(self._conversations.values()):
            job(conversation)

    def _restart(self, after_s: float) -> None:
        self._close_listener()
        self._for_each(self._end)
        self._later(after_s, self._listen)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        if self._path:
            listener = _listening_at(self._path)
        else:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            listener = socket.create_server((self._host, self._port), family=family)
            self._port = listener.getsockname()[1]
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()
            if self._path:
                self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        if self._listener is None:  # closed by a job of the same round
            return
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # the client has gone again
            return
        sock.setblocking(False)
        if not self._path:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        framer = RtuFramer("request") if self._framing == "rtu" else MbapFramer()
        conversation = _Conversation(self, self.connections, sock, framer)
        self._conversations[conversation.number] = conversation
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._attend(conversation))

    def _attend(self, conversation: _Conversation) -> None:
        if conversation.unsent:
            self._send(conversation, b"")
        if conversation.number not in self._conversations:
            return
        try:
            data = conversation.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for frame in conversation.framer.feed(data):
            self._take_turn(conversation, frame)
        if not data or conversation.framer.fault:
            self._end(conversation)

    def _take_turn(self, conversation: _Conversation, frame: Frame) -> None:
        self.requests.append(Received(conversation.number, frame, monotonic()))
        right = self._pipeline.answer(frame, ConnectionInfo(conversation.number))
        if isinstance(right, Pending):
            if iscoroutine(right.awaitable):
                right.awaitable.close()
            raise UsageError("a scripted peer has no event loop: its device must answer without waiting")
        if right is None or (self._framing == "rtu" and frame.unit == 0):  # a broadcast
            right = b""
        next(self._script, self._otherwise)(Turn(conversation, frame, right, len(self.requests)))

    def _later(self, after_s: float, job: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (monotonic() + after_s, next(self._numbers), job))

    def _send(self, conversation: _Conversation, data: bytes) -> None:
        if conversation.number not in self._conversations:
            return
        unsent = conversation.unsent
        unsent += data
        try:
            del unsent[: conversation.sock.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the other end has gone
            self._end(conversation)
            return
        key = self._selector.get_key(conversation.sock)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        if key.events != events:
            self._selector.modify(conversation.sock, events, key.data)

    def _end(self, conversation: _Conversation, *, reset: bool = False) -> None:
        if self._conversations.pop(conversation.number, None) is None:
            return
        self._selector.unregister(conversation.sock)
        if reset:
            conversation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        conversation.sock.close()


def _listening_at(path: Path) -> socket.socket:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        stack.pop_all()
        return listener
