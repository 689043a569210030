from __future__ import annotations

import asyncio
import errno
import socket
import time

import pytest

from everbus.aio import vitals
from everbus.aio.server import Server
from everbus.aio.statistics import Drained, Forced
from everbus.errors import ServerStateError, UsageError
from everbus.limits import Limits
from everbus.observe import Event, EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.testing import RecordingObserver
from tests.aio.servers import ANYWHERE, Slow, another_thread, busy, serves
from tests.aio.wire import ZERO, adu, connect, loop_complaints, peer, until

# Stop


async def test_idle_connections_close_at_once() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as two:
        await one.ask()
        await two.ask()
        started = time.monotonic()
        assert await server.stop() == Drained(2)
        assert time.monotonic() - started < 1.0
        assert await one.end() == await two.end() == "eof"
        assert await server.stop() == Drained(2)
    found = server.statistics()
    assert found.closed_by_reason == {"stopping": 2}
    assert (found.connections, found.listeners, found.requests) == (0, 0, 2)


async def test_busy_connections_close_after_their_answer() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow, 3) as peers:
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        assert not stop.done()
        assert not serves(server)
        slow.go_on.set()
        assert await stop == Drained(3)
        for one in peers:
            assert (await one.answer()).pdu == ZERO
            assert await one.end() == "eof"


async def test_what_has_arrived_when_it_stops_is_answered() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one:
        await one.ask()
        one.send(adu(2))  # sent at once: it is in the server's receive buffer before anything else runs
        assert await server.stop() == Drained(1)
        assert (await one.answer()).transaction == 2
        assert await one.end() == "eof"


async def test_at_the_deadline_the_rest_is_cut_off() -> None:
    slow = Slow()
    server = Server({1: slow, 2: Bank()}, ANYWHERE, limits=Limits(stop_timeout_s=0.3))
    await server.start()
    async with busy(server, slow, 2) as peers, peer(server.endpoints[0]) as idle:
        await idle.ask(unit=2)
        started = time.monotonic()
        assert await server.stop() == Forced(3, 2)
        assert 0.29 <= time.monotonic() - started < 2.0
        assert await idle.end() == "eof"
        for one in peers:
            assert await one.end() in ("eof", "reset")
    assert slow.cancelled == 2
    assert server.statistics().closed_by_reason == {"stopping": 1, "forced": 2}
    assert await server.stop() == Forced(3, 2)


async def test_a_timeout_of_its_own_is_possible_for_one_stop() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    with pytest.raises(UsageError, match="cannot be negative"):
        await server.stop(-1.0)
    assert serves(server)
    async with busy(server, slow):
        started = time.monotonic()
        assert await server.stop(0.1) == Forced(1, 1)
        assert time.monotonic() - started < 2.0


async def test_a_stop_at_once_cuts_off_only_what_is_busy() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as two:
        await one.ask()
        await two.ask()
        assert await server.stop(0) == Drained(2)
    slow = Slow()
    server = Server({1: slow, 2: Bank()}, ANYWHERE)
    await server.start()
    async with busy(server, slow), peer(server.endpoints[0]) as idle:
        await idle.ask(unit=2)
        assert await server.stop(0) == Forced(2, 1)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 50])
async def test_a_second_stop_hurries_the_first(turns: int) -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    async with busy(server, slow):
        first = asyncio.create_task(server.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        started = time.monotonic()
        assert await server.stop(0) == Forced(1, 1)
        assert await first == Forced(1, 1)
        assert time.monotonic() - started < 2.0


async def test_any_number_of_hurried_stops_is_one_stop() -> None:
    with loop_complaints() as complaints:
        slow = Slow()
        server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
        await server.start()
        async with busy(server, slow):
            server.request_stop()
            for _ in range(10):
                server.request_stop(at_once=True)
                await asyncio.sleep(0)
            assert await server.stop() == Forced(1, 1)
        server.request_stop(at_once=True)
    assert complaints == []


async def test_a_second_stop_without_hurry_waits_with_the_first() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    async with busy(server, slow):
        stops = [asyncio.create_task(server.stop(timeout)) for timeout in (None, 0.01, None)]
        await asyncio.sleep(0.1)
        assert not any(stop.done() for stop in stops)
        slow.go_on.set()
        assert await asyncio.gather(*stops) == [Drained(1)] * 3


async def test_a_stop_that_is_cancelled_goes_on() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        slow.go_on.set()
        assert await server.stop() == Drained(1)


async def test_stopping_what_never_started_is_nothing() -> None:
    server = Server(Bank(), ANYWHERE)
    assert server.statistics().connections == 0
    assert await server.stop() == await server.stop() == Drained(0)
    with pytest.raises(ServerStateError, match="is stopped"):
        await server.start()
    other = Server(Bank(), ANYWHERE)
    other.request_stop()
    with pytest.raises(ServerStateError, match="is stopped"):
        await other.serve_forever()


@pytest.mark.parametrize("way", ["stop", "request"])
async def test_a_stop_while_names_are_resolved_ends_the_start(way: str) -> None:
    server = Server(Bank(), "tcp://localhost:0")
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    with pytest.raises(ServerStateError, match="is starting"):
        await server.serve_forever()
    if way == "stop":
        assert await server.stop() == Drained(0)
    else:
        server.request_stop()
    with pytest.raises(ServerStateError, match="stopped while it was starting"):
        await start
    assert server.endpoints == ()


async def test_a_stop_during_start_is_not_lost() -> None:
    class Stopping(RecordingObserver):
        def notify(self, event: Event) -> None:
            if event.kind is EventKind.LISTENER_OPENED:
                server.request_stop()

    server = Server(Bank(), ANYWHERE, observer=Stopping())
    with pytest.raises(ServerStateError, match="stopped while it was starting"):
        await server.start()
    assert not serves(server)
    assert server.statistics().listeners == 0


async def test_stop_from_another_thread() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        with another_thread(lambda: asyncio.run(server.stop())) as results:
            await until(lambda: not serves(server))
            slow.go_on.set()
            await until(lambda: results)
        assert results == [Drained(1)]
        assert await server.stop() == Drained(1)


async def test_a_request_to_stop_from_another_thread() -> None:
    server = Server(Bank(), ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    with another_thread(server.request_stop):
        assert await serving == Drained(0)


def test_stop_from_another_loop_after_the_end() -> None:
    async def serve() -> Server:
        async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
            await one.ask()
            await server.stop()
        return server

    server = asyncio.run(serve())
    assert asyncio.run(server.stop()) == Drained(1)
    server.request_stop()


async def test_stop_from_a_handler() -> None:
    results: list[object] = []

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        results.append(await server.stop())
        return ReadHoldingRegistersResponse.of([0])

    server = Server({1: handler, 2: Bank()}, ANYWHERE, limits=Limits(stop_timeout_s=60.0, handler_timeout_s=60.0))
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as other:
        await other.ask(unit=2)
        one.send(adu(1, 1))
        assert await one.end() == "eof"
        assert await other.end() == "eof"
        await until(lambda: results)
    assert results == [Drained(2)]


async def test_requests_held_behind_the_one_that_stops_are_answered() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        if context.transaction == 1:
            await server.stop()
        return ReadHoldingRegistersResponse.of([0])

    limits = Limits(max_in_flight=1, stop_timeout_s=60.0, handler_timeout_s=60.0)
    server = Server(handler, ANYWHERE, limits=limits)
    await server.start()
    async with peer(server.endpoints[0]) as one:
        one.send(adu(1) + adu(2) + adu(3))
        assert [(await one.answer()).transaction for _ in range(2)] == [2, 3]
        assert await one.end() == "eof"
    assert await server.stop() == Drained(1)


async def test_where_descriptors_cannot_be_counted_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> int:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(vitals, "descriptor_count", none_left)
    async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        assert server.limits.max_connections == 1024


async def test_a_reset_behind_a_half_close_ends_the_handler() -> None:
    slow = Slow()
    async with Server(slow, ANYWHERE, limits=Limits(idle_timeout_s=1.0)) as server:
        with socket.create_connection(("127.0.0.1", int(server.endpoints[0].rpartition(":")[2]))) as sock:
            sock.sendall(adu(1))
            await until(lambda: slow.begun == 1)
            sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: slow.cancelled == 1)
        assert server.statistics().connections == 0


async def test_two_handlers_may_stop_it() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        results.append(await server.stop())
        return ReadHoldingRegistersResponse.of([0])

    results: list[object] = []
    server = Server(handler, ANYWHERE, limits=Limits(stop_timeout_s=60.0, handler_timeout_s=60.0))
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as other:
        one.send(adu(1) + adu(2))
        other.send(adu(3))
        assert await one.end() == await other.end() == "eof"
        await until(lambda: len(results) == 3)
    assert results == [Drained(2)] * 3


async def test_a_handler_may_ask_for_the_stop_and_answer() -> None:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        server.request_stop()
        return ReadHoldingRegistersResponse.of([0])

    async with Server(handler, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        assert await one.end() == "eof"


@pytest.mark.slow
async def test_a_handler_that_will_not_end_does_not_hold_up_the_stop() -> None:
    release = asyncio.Event()

    async def stubborn(request: AnyRequest, context: RequestContext) -> Answer:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return ReadHoldingRegistersResponse.of([0])

    server = Server(stubborn, ANYWHERE, limits=Limits(stop_timeout_s=0.1))
    await server.start()
    async with peer(server.endpoints[0]) as one:
        one.send(adu(1))
        await until(lambda: server.statistics().requests)
        started = time.monotonic()
        assert await server.stop() == Forced(1, 1)
        assert time.monotonic() - started < 3.0
        release.set()


async def test_nobody_is_admitted_once_it_stops() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    url = server.endpoints[0]
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            await connect(url)
        slow.go_on.set()
        await stop
