"""A connection with no socket below it: the transport is a fake, and the test is the peer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from everbus.aio.connection import RECEIVE_BYTES, Connection, Shared
from everbus.aio.registry import Registry
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import Answer
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.testing import RecordingObserver
from tests.aio.wire import adu, frames

PEER = "192.0.2.1"
LIMITS = Limits(
    frame_timeout_s=5.0,
    write_timeout_s=10.0,
    handler_timeout_s=7.0,
    max_in_flight=3,
    write_high_water_bytes=100,
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written; the peer takes it when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Connection | None = None
        self.writes: list[bytes] = []
        self.buffered = 0
        self.taken = True
        self.high = -1
        self.reading = True
        self.closing = False
        self.aborted = False
        self.gone = False
        self.at_eof = False
        self.error = 0
        """What the socket says of itself."""

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self if name == "socket" else default

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.error

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is None
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.closing, "written after the close"
        self.writes.append(bytes(data))
        if not self.taken:
            before, self.buffered = self.buffered, self.buffered + len(data)
            if before <= self.high < self.buffered:
                assert self.protocol is not None
                self.protocol.pause_writing()

    def take(self) -> None:
        """The peer reads all that was sent, and goes on reading."""
        assert self.protocol is not None
        blocked, self.buffered, self.taken = self.buffered > self.high, 0, True
        if blocked:
            self.protocol.resume_writing()
        if self.closing:
            self._lose()

    def pause_reading(self) -> None:
        assert self.reading
        assert not self.closing
        assert not self.at_eof
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        assert not self.closing
        assert not self.at_eof
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def was_aborted(self) -> bool:
        return self.aborted

    def close(self) -> None:
        first, self.closing = not self.closing, True
        if first and not self.buffered:
            self._lose()

    def abort(self) -> None:
        self.aborted = self.closing = True
        self.buffered = 0
        self._lose()

    def _lose(self, error: Exception | None = None) -> None:
        asyncio.get_running_loop().call_soon(self.lose, error)

    def lose(self, error: Exception | None = None) -> None:
        """The socket is closed."""
        if not self.gone:
            self.gone = self.closing = True
            assert self.protocol is not None
            self.protocol.connection_lost(error)


class Line:
    """A connection and the other end of its wire."""

    def __init__(self, shared: Shared, number: int) -> None:
        self.shared = shared
        self.connection = Connection(shared, ConnectionInfo(number, f"{PEER}:{number}", PEER))
        self.wire = Wire()
        self.wire.protocol = self.connection

    def make(self) -> Line:
        self.connection.connection_made(self.wire)
        return self

    def feed(self, data: bytes) -> None:
        """What the peer sends, as an event loop hands it over: in reads of the buffer's size."""
        for start in range(0, len(data), RECEIVE_BYTES):
            assert self.wire.reading, "nobody reads"
            assert not self.wire.closing
            piece = data[start : start + RECEIVE_BYTES]
            buffer = self.connection.get_buffer(-1)
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    def half_close(self) -> None:
        stays_open = self.connection.eof_received()
        assert stays_open or self.wire.closing, "the transport must stay open for the answers"
        self.wire.at_eof = True

    @property
    def answers(self) -> list[Frame]:
        return frames(self.wire.sent)

    @property
    def answered(self) -> list[int]:
        return [frame.transaction for frame in self.answers]


class Bench:
    """What a server gives its connections."""

    def __init__(self, handler: UnitSource, limits: Limits = LIMITS) -> None:
        self.observer = RecordingObserver()
        self.registry = Registry(limits)
        pipeline = Pipeline(as_units(handler), observer=self.observer)
        self.shared = Shared(pipeline, self.registry, limits, self.observer, MbapFramer)
        self.number = 0

    def admit(self) -> Line:
        self.number += 1
        line = Line(self.shared, self.number)
        assert self.registry.admit(line.connection, line.connection.opened_at) is None
        return line

    def line(self) -> Line:
        return self.admit().make()

    @property
    def endings(self) -> list[str]:
        return self.observer.reasons(EventKind.CONNECTION_CLOSED)


class Slow:
    """A handler that answers when a test says so; the address tells the requests apart."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.begun: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        number = context.transaction
        self.begun.append(number)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            return await self.waiting[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    async def answer(self, *numbers: int, value: int = 0) -> None:
        for number in numbers:
            self.waiting.pop(number).set_result(ReadHoldingRegistersResponse.of([value]))
            await turns()


async def turns(count: int = 4) -> None:
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def slow_line(limits: Limits = LIMITS) -> tuple[Bench, Slow, Line]:
    handler = Slow()
    bench = Bench(handler, limits)
    return bench, handler, bench.line()


def many(*numbers: int) -> bytes:
    return b"".join(map(adu, numbers))
