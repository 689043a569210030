from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from tests.aio.lines import PEER, Bench, Slow, many, slow_line, turns
from tests.aio.wire import READ, adu, read_holding

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
