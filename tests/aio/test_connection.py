from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from itertools import permutations
from time import monotonic
from typing import Any, cast

import pytest

from everbus.aio.connection import RECEIVE_BYTES, Connection, Shared
from everbus.aio.registry import Registry
from everbus.errors import ExceptionResponseError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.testing import RecordingObserver
from tests.aio.wire import FAILED, NOT_MODBUS, READ, ZERO, adu, frames, loop_complaints, read_holding

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


# Requests and answers


@pytest.mark.requirement("TG-3.1.3-transaction")
async def test_a_request_is_answered_at_once_under_its_own_numbers() -> None:
    bank = Bank()
    bank.write_holding_registers(7, [42])
    line = Bench(bank).line()
    line.feed(adu(0xABCD, 17, read_holding(7, 1)))
    assert line.wire.writes == [bytes.fromhex("ABCD 0000 0005 11 03 02 002A")]


@pytest.mark.requirement("TG-4.2.1.1-one-adu")
async def test_all_requests_of_one_read_leave_in_one_write() -> None:
    line = Bench(Bank()).line()
    line.feed(b"".join(adu(number, number) for number in range(16)))
    assert len(line.wire.writes) == 1
    assert line.answers == [Frame(number, ZERO, number) for number in range(16)]


async def test_frames_may_be_split_anywhere() -> None:
    stream = adu(1) + adu(2, 2, read_holding(0, 125)) + adu(3, 3, b"\x2b\x0e\x01\x00")
    whole = Bench(Bank()).line()
    whole.feed(stream)
    assert len(whole.answers) == 3
    for at in range(1, len(stream)):
        line = Bench(Bank()).line()
        line.feed(stream[:at])
        line.feed(stream[at:])
        assert line.wire.sent == whole.wire.sent
    line = Bench(Bank()).line()
    for byte in stream:
        line.feed(bytes([byte]))
    assert line.wire.sent == whole.wire.sent
    assert len(line.wire.writes) == 3


async def test_the_buffer_is_shared_and_what_is_kept_is_a_copy() -> None:
    bench = Bench(Bank())
    first, second = bench.line(), bench.line()
    assert first.connection.get_buffer(-1) is second.connection.get_buffer(65536)
    first.feed(adu(1)[:9])
    second.feed(adu(2, 2))
    first.feed(adu(1)[9:])
    assert (first.answers, second.answers) == ([Frame(1, ZERO, 1)], [Frame(2, ZERO, 2)])


async def test_more_requests_than_a_read_can_hold_are_all_answered() -> None:
    line = Bench(Bank()).line()
    line.feed(many(*range(2000)))
    assert line.answered == list(range(2000))
    assert len(line.wire.writes) == -(-2000 * len(adu(1)) // RECEIVE_BYTES)


@pytest.mark.requirement("TG-4.2.1.1-transactions")
async def test_answers_that_need_time_leave_as_they_complete() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1, 2, 3))
    await turns()
    await handler.answer(3, 1, 2)
    assert line.answered == [3, 1, 2]
    assert not line.connection.busy


@pytest.mark.requirement("TG-4.4.2-concurrent")
async def test_those_that_need_no_time_overtake_those_that_do() -> None:
    slow = Slow()

    def handler(request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        return slow(request, context) if context.transaction % 2 else ReadHoldingRegistersResponse.of([0])

    line = Bench(handler).line()
    line.feed(many(1, 2, 3, 4))
    assert line.answered == [2, 4]
    assert len(line.wire.writes) == 1
    await turns()
    await slow.answer(1, 3)
    assert line.answered == [2, 4, 1, 3]


async def test_a_handler_may_stay_silent_now_or_later() -> None:
    async def later(request: AnyRequest, context: RequestContext) -> Answer:
        return SILENT

    bench = Bench({1: lambda request, context: SILENT, 2: later, 3: Bank()})
    line = bench.line()
    line.feed(adu(1, 1) + adu(2, 2) + adu(3, 3))
    await turns()
    assert line.answered == [3]
    assert not line.connection.busy


# Requests in flight


@pytest.mark.requirement("TG-4.4.2.1-no-slot")
async def test_no_more_wait_at_once_than_may_and_nothing_is_lost() -> None:
    _, handler, line = await slow_line()
    line.feed(many(*range(1, 9)))
    await turns()
    assert handler.begun == [1, 2, 3]
    assert not line.wire.is_reading()
    for number in (2, 1, 3, 5, 4, 6, 7):
        await handler.answer(number)
        assert len(handler.waiting) <= 3
    assert handler.begun == list(range(1, 9))
    await handler.answer(8)
    assert line.answered == [2, 1, 3, 5, 4, 6, 7, 8]
    assert line.wire.is_reading()


async def test_held_requests_are_begun_in_the_order_of_their_arrival() -> None:
    _, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(5, 3, 9, 1) + adu(7)[:4])
    await turns()
    for number in (5, 3, 9, 1):
        assert not line.wire.is_reading()
        await handler.answer(number)
    assert handler.begun == line.answered == [5, 3, 9, 1]
    line.feed(adu(7)[4:])
    await turns()
    await handler.answer(7)
    assert line.answered == [5, 3, 9, 1, 7]


async def test_held_requests_that_need_no_time_are_answered_as_soon_as_it_is_their_turn() -> None:
    slow = Slow()

    def handler(request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        return ReadHoldingRegistersResponse.of([0]) if context.transaction > 100 else slow(request, context)

    line = Bench(handler, Limits(max_in_flight=1)).line()
    line.feed(many(1, 101, 102, 2, 103))
    await turns()
    assert line.answered == []
    await slow.answer(1)
    assert line.answered == [1, 101, 102]
    await slow.answer(2)
    assert line.answered == [1, 101, 102, 2, 103]
    assert line.wire.is_reading()


async def test_reading_goes_on_while_one_more_may_wait() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1, 2))
    await turns()
    assert line.wire.is_reading()
    line.feed(many(3))
    assert not line.wire.is_reading()
    await turns()
    await handler.answer(1, 2, 3)
    assert line.wire.is_reading()


async def test_a_disconnect_cancels_what_waits() -> None:
    with loop_complaints() as complaints:
        bench, handler, line = await slow_line()
        line.feed(many(*range(1, 6)))
        await turns()
        line.wire.lose()
        assert len(bench.registry) == 0
        await turns()
        assert handler.begun == handler.cancelled == [1, 2, 3]
        assert line.wire.writes == []
        assert not bench.shared.abandoned
        gc.collect()
    assert complaints == []


async def test_what_ends_after_its_connection_is_discarded() -> None:
    with loop_complaints() as complaints:
        go_on = asyncio.Event()
        ended: list[int] = []

        async def stubborn(request: AnyRequest, context: RequestContext) -> Answer:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue
            ended.append(context.transaction)
            if context.transaction == 2:
                raise ValueError("too late to matter")
            return ReadHoldingRegistersResponse.of([0])

        bench = Bench(stubborn)
        line = bench.line()
        line.feed(many(1, 2))
        await turns()
        line.wire.lose()
        await turns()
        assert (len(bench.shared.abandoned), len(bench.registry)) == (2, 0)
        go_on.set()
        await turns()
        assert ended == [1, 2]
        assert not bench.shared.abandoned
        gc.collect()
    assert complaints == []
    assert line.wire.writes == []
    assert bench.observer.of(EventKind.HANDLER_FAILED) == []


async def test_one_future_may_answer_several_requests() -> None:
    """A handler that asks a slow device once for all who want the same."""
    shared: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    bench = Bench(lambda request, context: shared)
    first, second = bench.line(), bench.line()
    first.feed(many(1, 2))
    second.feed(many(3))
    await turns()
    shared.set_result(ReadHoldingRegistersResponse.of([0]))
    await turns()
    assert (sorted(first.answered), second.answered) == ([1, 2], [3])
    assert not first.connection.busy


@pytest.mark.parametrize("why", ["timeout", "disconnect"])
async def test_who_gives_up_on_a_shared_future_gives_up_for_nobody_else(why: str) -> None:
    shared: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    bench = Bench(lambda request, context: shared)
    first, second = bench.line(), bench.line()
    first.feed(many(1))
    second.feed(many(2))
    await turns()
    if why == "timeout":
        first.connection.sweep(monotonic() + 8.0)
    else:
        first.wire.lose()
    await turns()
    assert not shared.done()
    shared.set_result(ReadHoldingRegistersResponse.of([0]))
    await turns()
    assert second.answers == [Frame(1, ZERO, 2)]


# Handlers that fail


class NoName(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")


def raising(error: BaseException) -> Callable[[AnyRequest, RequestContext], Answer]:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        raise error

    return handler


def raising_later(error: BaseException) -> Callable[[AnyRequest, RequestContext], Awaitable[Answer]]:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(0)
        raise error

    return handler


ERRORS = [ValueError, MemoryError, NoName, asyncio.CancelledError, GeneratorExit]


@pytest.mark.parametrize("make", [raising, raising_later])
@pytest.mark.parametrize("kind", ERRORS)
async def test_a_handler_that_raises_gives_exception_04_and_the_connection_lives(
    make: Callable[[BaseException], Any], kind: type[BaseException]
) -> None:
    with loop_complaints() as complaints:
        bench = Bench({1: make(kind()), 2: Bank()})
        line = bench.line()
        line.feed(adu(1, 1) + adu(2, 2))
        await turns(6)
        assert sorted(line.answers) == [Frame(1, FAILED, 1), Frame(2, ZERO, 2)]
        assert not line.connection.busy
        assert not line.wire.is_closing()
        assert bench.observer.reasons(EventKind.HANDLER_FAILED) == [kind.__name__]
    assert complaints == []


@pytest.mark.parametrize("make", [raising, raising_later])
async def test_a_handler_chooses_its_exception(make: Callable[[BaseException], Any]) -> None:
    bench = Bench(make(ExceptionResponseError(6)))
    line = bench.line()
    line.feed(adu(1))
    await turns(6)
    assert line.answers == [Frame(1, bytes.fromhex("8306"), 1)]
    assert bench.observer.of(EventKind.HANDLER_FAILED) == []


@pytest.mark.parametrize("nonsense", [None, 5, b"\x03\x02\x00\x00", [1, 2], ReadHoldingRegistersResponse.of([1, 2])])
async def test_nonsense_from_a_slow_handler_gives_exception_04(nonsense: object) -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        return cast(Answer, nonsense)

    bench = Bench(handler)
    line = bench.line()
    line.feed(adu(1))
    await turns()
    assert line.answers == [Frame(1, FAILED, 1)]
    assert len(bench.observer.of(EventKind.HANDLER_FAILED)) == 1


async def test_a_slow_handler_is_given_up_at_its_timeout_and_its_late_result_discarded() -> None:
    with loop_complaints() as complaints:
        bench, handler, line = await slow_line()
        started = monotonic()
        line.feed(many(1))
        await turns()
        line.connection.sweep(started + 6.9)
        assert line.answers == []
        line.connection.sweep(monotonic() + 7.0)
        assert line.answers == [Frame(1, FAILED, 1)]
        await turns()
        assert handler.cancelled == [1]
        assert bench.observer.reasons(EventKind.HANDLER_TIMED_OUT) == ["ModbusTimeoutError"]
        assert not line.connection.busy
        assert not bench.shared.abandoned
    assert complaints == []
    assert len(line.answers) == 1


async def test_other_requests_of_that_connection_go_on() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1))
    await turns()
    later = monotonic() + 7.0
    line.feed(many(2))
    await turns()
    line.connection.sweep(later)
    assert line.answered == [1]
    await handler.answer(2)
    assert line.answered == [1, 2]


async def test_after_a_timeout_what_was_held_has_its_turn() -> None:
    _, handler, line = await slow_line(Limits(max_in_flight=1, handler_timeout_s=7.0))
    line.feed(many(1, 2, 3))
    await turns()
    line.connection.sweep(monotonic() + 7.0)
    await turns()
    assert (handler.begun, handler.cancelled) == ([1, 2], [1])
    await handler.answer(2)
    await handler.answer(3)
    assert [frame.pdu for frame in line.answers] == [FAILED, ZERO, ZERO]
    assert line.wire.is_reading()


async def test_all_that_are_late_are_given_up_at_once() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1, 2, 3))
    await turns()
    line.connection.sweep(monotonic() + 7.0)
    assert sorted(line.answered) == [1, 2, 3]
    await turns()
    assert sorted(handler.cancelled) == [1, 2, 3]


# Reading stops and goes on


@pytest.mark.parametrize("begin", list(permutations(["full", "blocked"])))
@pytest.mark.parametrize("end", list(permutations(["full", "blocked"])))
async def test_reading_goes_on_when_no_reason_to_stop_is_left(begin: tuple[str, ...], end: tuple[str, ...]) -> None:
    slow = Slow()

    def handler(request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        if context.unit == 2:
            return slow(request, context)
        return ReadHoldingRegistersResponse.of([0] * 125)

    line = Bench(handler, Limits(max_in_flight=1, write_high_water_bytes=100)).line()
    line.wire.taken = False
    large = adu(1, 1, read_holding(0, 125))
    line.feed({"full": adu(2, 2) + large, "blocked": large + adu(2, 2)}[begin[0]])
    await turns()
    if begin[0] == "full":
        assert (line.wire.writes, line.wire.is_reading()) == ([], False)
        line.connection.pause_writing()
        line.wire.buffered = 1000
    active = {"full", "blocked"}
    assert not line.wire.is_reading()
    for reason in end:
        if reason == "full":
            line.wire.taken = True
            await slow.answer(2)
        else:
            line.wire.take()
        active.remove(reason)
        assert line.wire.is_reading() == (not active)


async def test_reading_stops_while_the_peer_does_not_read() -> None:
    bench = Bench(Bank())
    line = bench.line()
    assert line.wire.high == 100
    line.wire.taken = False
    line.feed(many(1, 2, 3))
    assert line.wire.is_reading()
    assert bench.registry.unsent == {line.connection}
    assert line.connection.unsent_bytes == len(line.wire.sent)
    line.feed(adu(4, 1, read_holding(0, 100)))
    assert not line.wire.is_reading()
    line.wire.take()
    assert line.wire.is_reading()
    assert line.connection.unsent_bytes == 0


async def test_a_write_that_is_taken_at_once_leaves_no_trace() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(many(1))
    assert bench.registry.unsent == set()
    assert bench.registry.watched == set()


async def test_nothing_is_resumed_once_it_closes() -> None:
    bench, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(1))
    await turns()
    assert not line.wire.is_reading()
    line.wire.close()
    await handler.answer(1)  # the wire asserts that nobody touches it
    assert line.wire.writes == []
    assert len(bench.registry) == 0


async def test_an_answer_that_comes_while_it_closes_is_dropped() -> None:
    bench, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(1))
    await turns()
    handler.waiting[1].set_result(ReadHoldingRegistersResponse.of([0]))
    await turns(1)  # the handler has ended, and its connection has not heard of it
    line.connection.abort("forced")
    await turns()
    assert line.wire.writes == []
    assert bench.endings == ["forced"]


async def test_all_buffers_together_are_bounded_at_the_moment_they_grow() -> None:
    bench = Bench(Bank(), Limits(write_high_water_bytes=100, max_buffered_bytes=600))
    first, second, third = (bench.line() for _ in range(3))
    for line in (first, second, third):
        line.wire.taken = False
    first.feed(adu(1, 1, read_holding(0, 120)))
    second.feed(adu(1, 1, read_holding(0, 100)))
    assert not first.wire.was_aborted()
    third.feed(adu(1, 1, read_holding(0, 90)))
    assert [line.wire.was_aborted() for line in (first, second, third)] == [True, False, False]
    await turns()
    assert bench.endings == ["buffer_limit"]
    assert bench.registry.unsent_bytes <= 600


# Streams that are not Modbus


async def test_a_fault_answers_what_came_before_it_and_closes() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(many(1, 2) + NOT_MODBUS)
    assert line.answered == [1, 2]
    assert len(line.wire.writes) == 1
    assert line.wire.is_closing()
    await turns()
    assert len(bench.registry) == 0
    (event,) = bench.observer.of(EventKind.FRAME_REJECTED)
    assert event.reason == "protocol_id"
    assert "HTTP" in event.detail
    assert (event.peer, event.connection_id) == (f"{PEER}:1", 1)
    assert bench.endings == ["protocol_id"]


@pytest.mark.parametrize("bad", [b"\0\1\0\0\0\0\1", b"\0\1\0\0\0\1\1", b"\0\1\0\0\0\xff\1", b"\0\1\0\1\0\6\1\3"])
async def test_a_bad_header_closes_at_once(bad: bytes) -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(bad)
    assert line.wire.is_closing()
    assert not line.wire.was_aborted()
    await turns()
    assert len(bench.observer.of(EventKind.FRAME_REJECTED)) == 1
    assert len(bench.registry) == 0


async def test_a_fault_waits_for_the_answers_before_it() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1, 2) + NOT_MODBUS)
    await turns()
    assert not line.wire.is_closing()
    assert not line.wire.is_reading(), "nothing that comes now can be understood"
    await handler.answer(2)
    assert not line.wire.is_closing()
    await handler.answer(1)
    assert line.answered == [2, 1]
    assert line.wire.is_closing()
    assert bench.endings == bench.observer.reasons(EventKind.FRAME_REJECTED) == ["protocol_id"]


async def test_a_fault_waits_for_what_was_held_before_it() -> None:
    bench, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(1, 2) + NOT_MODBUS)
    await turns()
    await handler.answer(1)
    assert not line.wire.is_closing()
    await handler.answer(2)
    assert line.answered == [1, 2]
    assert line.wire.is_closing()
    assert bench.endings == ["protocol_id"]


async def test_a_fault_during_the_stop_is_told_too() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1) + adu(2)[:3])
    await turns()
    line.connection.drain()
    await handler.answer(1)
    assert line.wire.is_closing()
    assert bench.endings == ["stopping"]


async def test_what_still_arrives_when_nobody_reads_any_more_is_not_judged() -> None:
    """Some transports deliver what they had read already when they were told to pause."""
    bench, handler, line = await slow_line()
    line.feed(many(1))
    await turns()
    line.connection.drain()
    line.connection.get_buffer(-1)[: len(NOT_MODBUS)] = NOT_MODBUS
    line.connection.buffer_updated(len(NOT_MODBUS))
    assert bench.observer.of(EventKind.FRAME_REJECTED) == []
    await handler.answer(1)
    assert line.answered == [1]
    assert bench.endings == ["stopping"]


async def test_a_fault_with_answers_that_nobody_takes_ends_at_the_write_timeout() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.wire.taken = False
    line.feed(many(1) + NOT_MODBUS)
    assert line.wire.is_closing()
    assert not line.wire.gone
    line.connection.sweep(monotonic() + 9.9)
    assert not line.wire.was_aborted()
    line.connection.sweep(monotonic() + 10.0)
    assert line.wire.was_aborted()
    await turns()
    assert bench.endings == ["protocol_id"]
    assert len(bench.registry) == 0


# Half-closed connections


@pytest.mark.requirement("TG-4.2.2-peer-closes")
async def test_a_peer_that_leaves_while_idle_is_let_go() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(many(1))
    line.half_close()
    assert line.wire.is_closing()
    await turns()
    assert bench.endings == ["peer_closed"]


async def test_a_peer_that_leaves_in_the_middle_of_a_frame_is_let_go() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(adu(1)[:8])
    line.half_close()
    await turns()
    assert bench.endings == ["peer_closed"]
    assert bench.registry.watched == set()


async def test_a_peer_that_has_no_more_requests_gets_its_answers() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1, 2))
    await turns()
    line.half_close()
    await handler.answer(1)
    assert not line.wire.is_closing()
    await handler.answer(2)
    assert line.answered == [1, 2]
    assert line.wire.is_closing()
    await turns()
    assert bench.endings == ["peer_closed"]


async def test_held_requests_are_answered_after_a_half_close_too() -> None:
    _, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(1, 2, 3))
    await turns()
    line.half_close()
    for number in (1, 2, 3):
        assert not line.wire.is_closing()
        await handler.answer(number)
    assert line.answered == [1, 2, 3]
    assert line.wire.is_closing()


async def test_half_a_frame_behind_a_request_does_not_cost_its_answer() -> None:
    """The frame will never be finished: the peer has said so. Its timeout must not cut the rest off."""
    _, handler, line = await slow_line()
    line.feed(many(1) + adu(2)[:5])
    await turns()
    line.half_close()
    line.connection.sweep(monotonic() + 6.0)
    await handler.answer(1)
    assert line.answered == [1]
    assert line.wire.is_closing()
    assert not line.wire.was_aborted()


# Deadlines


async def test_a_frame_has_its_time_from_its_first_byte() -> None:
    bench = Bench(Bank())
    line = bench.line()
    started = monotonic()
    line.feed(adu(1)[:1])
    line.feed(adu(1)[1:11])
    line.connection.sweep(started + 4.9)
    assert not line.wire.is_closing()
    line.connection.sweep(monotonic() + 5.0)
    assert line.wire.was_aborted()
    await turns()
    assert bench.endings == ["frame_timeout"]


async def test_a_finished_frame_ends_the_watch() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(adu(1)[:6])
    assert bench.registry.watched == {line.connection}
    line.feed(adu(1)[6:])
    line.connection.sweep(monotonic() + 100.0)
    assert not line.wire.is_closing()
    assert bench.registry.watched == set()


async def test_the_next_frame_has_its_own_time() -> None:
    line = Bench(Bank()).line()
    line.feed(adu(1)[:6])
    await asyncio.sleep(0.05)
    second = monotonic()
    line.feed(adu(1)[6:] + adu(2)[:3])
    line.connection.sweep(second + 4.99)
    assert not line.wire.is_closing()
    line.connection.sweep(monotonic() + 5.0)
    assert line.wire.was_aborted()


@pytest.mark.parametrize("why", ["full", "blocked"])
async def test_a_frame_is_not_late_while_nobody_reads_it(why: str) -> None:
    slow = Slow()
    limits = Limits(
        max_in_flight=1, write_high_water_bytes=100, frame_timeout_s=5.0, write_timeout_s=100.0, handler_timeout_s=100.0
    )
    line = Bench({1: Bank(), 2: slow}, limits).line()
    if why == "full":
        line.feed(adu(1, 2) + adu(2, 1) + adu(3)[:6])
    else:
        line.wire.taken = False
        line.feed(adu(2, 1, read_holding(0, 125)) + adu(3)[:6])
    await turns()
    assert not line.wire.is_reading()
    line.connection.sweep(monotonic() + 50.0)
    assert not line.wire.is_closing()
    if why == "full":
        await slow.answer(1)
    else:
        line.wire.take()
    resumed = monotonic()
    assert line.wire.is_reading()
    line.connection.sweep(resumed + 4.9)
    assert not line.wire.is_closing()
    line.connection.sweep(resumed + 5.1)
    assert line.wire.was_aborted()


async def test_a_peer_that_does_not_read_goes_at_the_write_timeout() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.wire.taken = False
    started = monotonic()
    line.feed(adu(1, 1, read_holding(0, 100)))
    line.connection.sweep(started + 9.9)
    assert not line.wire.is_closing()
    line.connection.sweep(monotonic() + 10.0)
    assert line.wire.was_aborted()
    await turns()
    assert bench.endings == ["write_timeout"]


async def test_a_peer_that_reads_in_time_stays() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.wire.taken = False
    line.feed(adu(1, 1, read_holding(0, 100)))
    line.wire.take()
    line.connection.sweep(monotonic() + 100.0)
    assert not line.wire.is_closing()
    assert bench.registry.watched == set()


@pytest.mark.parametrize("why", ["full", "half-closed"])
async def test_a_reset_that_nobody_could_read_is_noticed_by_the_sweep(why: str) -> None:
    bench, handler, line = await slow_line(Limits(max_in_flight=1))
    line.feed(many(1))
    await turns()
    if why == "half-closed":
        line.half_close()
    line.connection.sweep(monotonic())
    assert not line.wire.is_closing()
    line.wire.error = 104
    line.connection.sweep(monotonic())
    assert line.wire.was_aborted()
    await turns()
    assert handler.cancelled == [1]
    assert len(bench.endings) == 1


async def test_while_it_is_read_its_transport_notices_a_reset_by_itself() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1))
    await turns()
    line.wire.error = 104
    line.connection.sweep(monotonic())
    assert not line.wire.is_closing()
    await handler.answer(1)


async def test_deadlines_are_watched_as_long_as_there_is_one() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1) + adu(2)[:3])
    await turns()
    line.connection.sweep(monotonic())
    assert bench.registry.watched == {line.connection}
    line.feed(adu(2)[3:])
    line.connection.sweep(monotonic())
    assert bench.registry.watched == {line.connection}
    await turns()
    await handler.answer(1, 2)
    line.connection.sweep(monotonic())
    assert bench.registry.watched == set()


# Stopping


async def test_draining_an_idle_connection_closes_it() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(many(1) + adu(2)[:3])
    line.connection.drain()
    assert line.wire.is_closing()
    assert not line.wire.was_aborted()
    await turns()
    assert bench.endings == ["stopping"]


async def test_draining_a_busy_connection_waits_for_its_answers() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(*range(1, 6)))
    await turns()
    line.connection.drain()
    assert not line.wire.is_reading()
    for number in range(1, 6):
        assert not line.wire.is_closing()
        await handler.answer(number)
    assert line.answered == [1, 2, 3, 4, 5]
    assert line.wire.is_closing()
    await turns()
    assert bench.endings == ["stopping"]


async def test_draining_stops_reading_until_the_end() -> None:
    _, handler, line = await slow_line()
    line.feed(many(1, 2))
    await turns()
    assert line.wire.is_reading()
    line.connection.drain()
    assert not line.wire.is_reading()
    await handler.answer(1)
    assert not line.wire.is_reading()
    await handler.answer(2)
    assert line.wire.is_closing()


async def test_draining_does_not_wait_for_the_one_who_asked_for_it() -> None:
    waiting: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        waiting.append(task)
        await go_on.wait()
        return ReadHoldingRegistersResponse.of([0])

    bench = Bench(handler)
    first, second = bench.line(), bench.line()
    first.feed(many(1, 2))
    second.feed(many(3))
    await turns()
    for line in (first, second):
        line.connection.exempt(waiting[0])
        line.connection.drain()
    assert not first.wire.is_closing()
    go_on.set()
    await turns()
    assert (first.answered, second.answered) == ([2], [3])
    assert first.wire.is_closing()
    assert second.wire.is_closing()
    assert bench.endings == ["stopping", "stopping"]


async def test_who_asked_for_the_stop_does_not_hold_up_what_came_behind_it() -> None:
    waiting: list[asyncio.Task[Any]] = []

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        waiting.append(task)
        if context.transaction == 1:
            await asyncio.Event().wait()
        return ReadHoldingRegistersResponse.of([0])

    line = Bench(handler, Limits(max_in_flight=1)).line()
    line.feed(many(1, 2))
    await turns()
    line.connection.exempt(waiting[0])
    line.connection.drain()
    await turns()
    assert line.answered == [2]
    assert line.wire.is_closing()
    waiting[0].cancel()
    await turns()


async def test_a_stop_may_be_cut_short() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1))
    await turns()
    line.connection.drain()
    line.connection.abort("forced")
    await turns()
    assert handler.cancelled == [1]
    assert bench.endings == ["forced"]
    assert line.wire.writes == []


# Ends


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "peer_closed"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (TimeoutError(), "dead_peer"),
        (OSError(113, "no route"), "dead_peer"),
        (OSError(5, "broken card"), "network_error"),
    ],
)
@pytest.mark.requirement("TG-4.2.2-peer-closes")
async def test_why_a_connection_ended_by_itself_is_told(error: Exception | None, reason: str) -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(many(1, 2))
    line.wire.lose(error)
    assert bench.endings == [reason]
    (event,) = bench.observer.of(EventKind.CONNECTION_CLOSED)
    assert (event.peer, event.connection_id, event.detail) == (f"{PEER}:1", 1, "2 requests")
    assert len(bench.registry) == 0


async def test_an_eviction_is_told_as_such() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.connection.abort("evicted_idle")
    await turns()
    assert bench.observer.reasons(EventKind.CONNECTION_EVICTED) == ["evicted_idle"]
    assert bench.endings == []


async def test_the_first_reason_of_an_abort_stays() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.feed(adu(1)[:3])
    line.connection.abort("evicted_idle")
    line.connection.sweep(monotonic() + 100.0)  # in the same turn of the loop
    await turns()
    assert bench.observer.reasons(EventKind.CONNECTION_EVICTED) == ["evicted_idle"]
    assert bench.endings == []


async def test_a_slot_whose_transport_never_came_is_given_back_too() -> None:
    bench = Bench(Bank())
    line = bench.admit()
    line.connection.ended("setup")
    assert len(bench.registry) == 0
    assert bench.endings == ["setup"]


async def test_a_slot_that_was_to_be_given_up_before_keeps_that_reason() -> None:
    bench = Bench(Bank())
    line = bench.admit()
    line.connection.close("idle")
    line.connection.ended("setup")
    assert bench.endings == ["idle"]


async def test_the_last_one_out_is_noticed() -> None:
    bench = Bench(Bank())
    first, second = bench.line(), bench.line()
    first.wire.lose()
    assert not bench.shared.wake.is_set()
    second.wire.lose()
    assert bench.shared.wake.is_set()


async def test_closing_twice_keeps_the_first_reason_and_time() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.wire.taken = False
    line.feed(many(1))
    started = monotonic()
    line.connection.close("idle")
    await asyncio.sleep(0.05)
    line.connection.close("stopping")
    line.connection.sweep(started + 9.99)
    assert not line.wire.was_aborted()
    line.connection.sweep(started + 10.02)
    assert line.wire.was_aborted()
    await turns()
    assert bench.endings == ["idle"]


async def test_what_was_written_before_a_close_is_still_sent() -> None:
    bench = Bench(Bank())
    line = bench.line()
    line.wire.taken = False
    line.feed(many(1))
    line.connection.close("idle")
    await turns()
    assert len(bench.registry) == 1
    line.wire.take()
    await turns()
    assert len(bench.registry) == 0
    assert not line.wire.was_aborted()


# Bookkeeping


async def test_a_connection_counts_as_used_from_its_first_request_on() -> None:
    bench = Bench(Bank(), Limits(max_connections=2, max_connections_per_peer=2))
    first, second = bench.line(), bench.line()
    first.feed(many(1))
    assert list(bench.registry) == [second.connection, first.connection]


async def test_who_was_active_last_goes_last() -> None:
    bench = Bench(Bank())
    first, second = bench.line(), bench.line()
    first.feed(many(1))
    second.feed(many(1))
    assert list(bench.registry) == [first.connection, second.connection]
    await asyncio.sleep(0.1)
    first.feed(many(2))
    assert list(bench.registry) == [second.connection, first.connection]
    assert first.connection.last_active > second.connection.last_active


async def test_an_answer_is_activity_too() -> None:
    slow = Slow()
    bench = Bench({1: slow, 2: Bank()})
    first, second = bench.line(), bench.line()
    first.feed(many(1))
    await asyncio.sleep(0.02)
    second.feed(adu(2, 2))
    assert first.connection.last_active < second.connection.last_active
    await slow.answer(1)
    assert first.connection.last_active > second.connection.last_active
    assert list(bench.registry) == [second.connection, first.connection]


async def test_bytes_alone_are_no_activity() -> None:
    bench = Bench(Bank())
    line = bench.line()
    opened = line.connection.last_active
    await asyncio.sleep(0.02)
    line.feed(adu(1)[:5])
    assert line.connection.last_active == opened
    line.feed(adu(1)[5:])
    assert line.connection.last_active > opened


async def test_a_connection_tells_what_it_has_done() -> None:
    bench, handler, line = await slow_line()
    line.feed(many(1, 2))
    await turns()
    await handler.answer(1)
    line.wire.taken = False
    line.wire.buffered = 9
    found = line.connection.statistics()
    assert (found.requests, found.in_flight, found.unsent_bytes) == (2, 1, 9)
    assert found.opened_at <= found.last_active <= monotonic()
    assert bench.shared.requests == 2
    assert line.connection.host == PEER
    assert repr(line.connection) == f"<Connection 1 {PEER}:1 open>"
    line.connection.abort("idle")
    assert repr(line.connection) == f"<Connection 1 {PEER}:1 idle>"
    await turns()
    assert line.connection.statistics().unsent_bytes == 0


async def test_a_request_to_read_is_answered_without_a_task() -> None:
    line = Bench(Bank()).line()
    before = len(asyncio.all_tasks())
    line.feed(adu(1, 1, READ))
    assert len(asyncio.all_tasks()) == before
    assert line.answered == [1]


async def test_one_future_that_is_done_answers_several_requests_of_one_segment() -> None:
    done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    done.set_result(ReadHoldingRegistersResponse.of([0]))
    line = Bench(lambda request, context: done).line()
    line.feed(many(1, 2))
    await turns()
    assert sorted(line.answered) == [1, 2]
    assert not line.connection.busy


async def test_a_handler_is_exempt_by_its_own_task_too() -> None:
    task: asyncio.Task[Answer] = asyncio.get_running_loop().create_task(asyncio.sleep(60))  # type: ignore[arg-type]
    line = Bench(lambda request, context: task).line()
    line.feed(many(1))
    await turns()
    before = line.connection.busy
    line.connection.exempt(task)
    assert (before, line.connection.busy) == (True, False)
    task.cancel()
    await turns()
