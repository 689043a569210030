from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

import pytest

from everbus.aio.connection import RECEIVE_BYTES
from everbus.errors import ExceptionResponseError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import SILENT, Answer
from tests.aio.lines import Bench, Slow, many, slow_line, turns
from tests.aio.wire import FAILED, ZERO, adu, loop_complaints, read_holding

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
