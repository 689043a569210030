from __future__ import annotations

from collections.abc import Awaitable
from itertools import permutations
from time import monotonic

import pytest

from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from tests.aio.lines import PEER, Bench, Slow, many, slow_line, turns
from tests.aio.wire import NOT_MODBUS, adu, read_holding

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
