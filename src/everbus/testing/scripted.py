"""A device that misbehaves on request: for tests of clients, ours and anybody's.

It runs in a thread of its own over real sockets, so it serves tests with and without an event loop.
Unless its script says otherwise it answers truthfully, from a bank::

    with ScriptedPeer([late(0.2), answer, wrong_unit(9)]) as peer:
        client = Client(peer.url)
"""

from __future__ import annotations

import heapq
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Final, Literal, NamedTuple, Self

from everbus.protocol.codes import EXCEPTION_BIT
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units

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
    "late",
    "partial",
    "pdu",
    "raw",
    "reset",
    "silent",
    "wrong_transaction",
    "wrong_unit",
]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


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
    """One connection."""

    def __init__(self, number: int, sock: socket.socket, framer: Framer) -> None:
        self.number = number
        self.sock = sock
        self.framer = framer
        self.kept = b""


class Turn:
    """One request, and what can be done about it.

    Args:
        peer: whom it was sent to.
        conversation: through which connection.
        frame: the request.
        right: the PDU of the right answer.
    """

    def __init__(self, peer: ScriptedPeer, conversation: _Conversation, frame: Frame, right: bytes) -> None:
        self._peer = peer
        self._conversation = conversation
        self.frame: Frame = frame
        self.right: bytes = right

    def adu(self, pdu: bytes | None = None, unit: int | None = None, transaction: int | None = None) -> bytes:
        """A whole frame: the right answer, but for what is given."""
        framer = self._conversation.framer
        return framer.encode(
            self.frame.unit if unit is None else unit,
            self.right if pdu is None else pdu,
            self.frame.transaction if transaction is None else transaction,
        )

    def send(self, data: bytes, after_s: float = 0.0) -> None:
        """Send bytes, at once or later, behind what ``keep`` kept."""
        conversation = self._conversation
        if after_s:
            self._peer._later(after_s, lambda: self._peer._send(conversation, data))
        else:
            kept, conversation.kept = conversation.kept, b""
            self._peer._send(conversation, kept + data)

    def keep(self, data: bytes) -> None:
        """Send these bytes in one piece with the next ones."""
        self._conversation.kept += data

    def end(self, *, reset: bool = False) -> None:
        """Close the connection, or reset it."""
        self._peer._end(self._conversation, reset=reset)


Step = Callable[[Turn], None]


def answer(turn: Turn) -> None:
    """Answer truthfully."""
    turn.send(turn.adu())


def silent(turn: Turn) -> None:
    """Do not answer."""


def close(turn: Turn) -> None:
    """Close the connection instead of answering."""
    turn.end()


def reset(turn: Turn) -> None:
    """Reset the connection instead of answering."""
    turn.end(reset=True)


def glued(turn: Turn) -> None:
    """Answer in one piece with the next answer of this connection."""
    turn.keep(turn.adu())


def late(by_s: float) -> Step:
    """Answer truthfully, but so much later; others may overtake it."""
    return lambda turn: turn.send(turn.adu(), by_s)


def duplicate(times: int = 2) -> Step:
    """Send the right answer several times."""
    return lambda turn: turn.send(turn.adu() * times)


def wrong_transaction(offset: int = 1) -> Step:
    """Answer with another transaction id."""
    return lambda turn: turn.send(turn.adu(transaction=(turn.frame.transaction + offset) % 0x10000))


def wrong_unit(unit: int) -> Step:
    """Answer as another unit."""
    return lambda turn: turn.send(turn.adu(unit=unit))


def pdu(data: bytes) -> Step:
    """Answer with this PDU in the right frame."""
    return lambda turn: turn.send(turn.adu(data))


def exception(code: int, function: int | None = None) -> Step:
    """Answer with an exception, of another function if one is given."""

    def step(turn: Turn) -> None:
        asked = turn.frame.pdu[0] if function is None else function
        turn.send(turn.adu(bytes((asked | EXCEPTION_BIT, code))))

    return step


def raw(data: bytes) -> Step:
    """Send these bytes instead of an answer."""
    return lambda turn: turn.send(data)


def partial(size: int, *, then_close: bool = False) -> Step:
    """Send the first bytes of the right answer, then nothing more; or close the connection."""

    def step(turn: Turn) -> None:
        turn.send(turn.adu()[:size])
        if then_close:
            turn.end()

    return step


def drip(every_s: float) -> Step:
    """Send the right answer a byte at a time."""

    def step(turn: Turn) -> None:
        for position, byte in enumerate(turn.adu()):
            turn.send(bytes((byte,)), (position + 1) * every_s)

    return step


class ScriptedPeer:
    """A small device with a script, in a thread of its own. A context manager: it serves inside.

    Args:
        script: a step for each request in the order in which they come, over all connections; when
            it has ended, ``answer``. Or one function that is the step for all.
        host: address to listen on; a path listens there instead, as a Unix socket.
        framing: ``mbap``, or ``rtu`` for RTU frames over the stream.
        device: what it answers from: a bank, a device, anything that a server takes; a bank of zeros by default.
    """

    def __init__(
        self,
        script: Iterable[Step] | Step = (),
        *,
        host: str = "127.0.0.1",
        framing: Literal["mbap", "rtu"] = "mbap",
        device: UnitSource | None = None,
    ) -> None:
        self._script: Iterator[Step] | None = None if callable(script) else iter(script)
        self._always: Step = script if callable(script) else answer
        self._host = host
        self._port = 0
        self._framing = framing
        self._pipeline = Pipeline(as_units(device if device is not None else Bank()))
        self.requests: list[Received] = []
        """What came in, in order."""
        self.connections: int = 0
        """How many were accepted."""
        self._conversations: dict[int, _Conversation] = {}
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._jobs: list[tuple[Callable[[], None], threading.Event]] = []
        self._thread = threading.Thread(target=self._serve, name="scripted-peer", daemon=True)
        self._stopped = False

    @property
    def url(self) -> str:
        """Where it listens, for a client."""
        if self._host.startswith("/"):
            return f"unix://{self._host}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'rtu+tcp' if self._framing == 'rtu' else 'tcp'}://{host}:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._conversations)

    def __enter__(self) -> Self:
        self._ours, self._waker = socket.socketpair()
        self._ours.setblocking(False)
        self._selector.register(self._ours, selectors.EVENT_READ, self._on_wake)
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._thread.join()
        for sock in (self._ours, self._waker):
            sock.close()
        self._selector.close()

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._do(self._close_listener)

    def listen_again(self) -> None:
        """Listen again, where it did."""
        self._do(self._listen)

    def drop_connections(self, *, reset: bool = False) -> None:
        """End every connection."""
        self._do(lambda: self._for_each(lambda each: self._end(each, reset=reset)))

    def push(self, data: bytes) -> None:
        """Send bytes that nobody asked for, through every connection."""
        self._do(lambda: self._for_each(lambda each: self._send(each, data)))

    def _for_each(self, job: Callable[[_Conversation], None]) -> None:
        for conversation in list(self._conversations.values()):
            job(conversation)

    # In its thread

    def _do(self, job: Callable[[], None]) -> None:
        done = threading.Event()
        self._jobs.append((job, done))
        self._waker.send(b"!")
        done.wait(5.0)

    def _serve(self) -> None:
        while not self._stopped:
            wait_s = max(0.0, self._timers[0][0] - monotonic()) if self._timers else None
            for key, _ in self._selector.select(wait_s):
                key.data()
            while self._timers and self._timers[0][0] <= monotonic():
                heapq.heappop(self._timers)[2]()

    def _on_wake(self) -> None:
        self._ours.recv(100)
        while self._jobs:
            job, done = self._jobs.pop(0)
            job()
            done.set()

    def _stop(self) -> None:
        self._stopped = True
        self._close_listener()
        self._for_each(self._end)

    def _listen(self) -> None:
        if self._host.startswith("/"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self._host)
        else:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            self._port = listener.getsockname()[1]
        listener.listen(128)
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            framer = RtuFramer("request") if self._framing == "rtu" else MbapFramer()
            conversation = _Conversation(self.connections, sock, framer)
            self._conversations[conversation.number] = conversation
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._receive(conversation))

    def _receive(self, conversation: _Conversation) -> None:
        if conversation.number not in self._conversations:
            return
        try:
            data = conversation.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(conversation)
            return
        for frame in conversation.framer.feed(data):
            self._take_turn(conversation, frame)

    def _take_turn(self, conversation: _Conversation, frame: Frame) -> None:
        self.requests.append(Received(conversation.number, frame, monotonic()))
        right = self._pipeline.answer(frame, ConnectionInfo(conversation.number))
        assert isinstance(right, bytes), "a local device answers at once"
        step = next(self._script, answer) if self._script is not None else self._always
        step(Turn(self, conversation, frame, right))

    def _later(self, after_s: float, job: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (monotonic() + after_s, next(self._numbers), job))

    def _send(self, conversation: _Conversation, data: bytes) -> None:
        if conversation.number in self._conversations:
            with suppress(OSError):  # the other end has gone
                conversation.sock.sendall(data)

    def _end(self, conversation: _Conversation, *, reset: bool = False) -> None:
        if self._conversations.pop(conversation.number, None) is None:
            return
        self._selector.unregister(conversation.sock)
        if reset:
            conversation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        conversation.sock.close()
