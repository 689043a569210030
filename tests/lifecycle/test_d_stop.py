"""Group D, stop: bounded, idempotent, from anywhere.

Rows D6 and D7 of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter

import pytest

from everbus import Bank, Drained, Forced, Limits, Server, ServerStateError, serve_in_thread
from everbus.observe import EventKind
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.testing import RecordingObserver
from tests.lifecycle.programs import descriptors_for
from tests.lifecycle.wire import READ, Wire, address_of, adu, answers_in, never_reading, read, until

FREE_PORT = "tcp://127.0.0.1:0"
MARGIN_S = 0.5


class Slow:
    """Answers so many milliseconds later as the address says."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Response:
        assert isinstance(request, ReadHoldingRegistersRequest)
        self.running += 1
        try:
            await asyncio.sleep(request.address / 1000)
        finally:
            self.running -= 1
        return ReadHoldingRegistersResponse.of([request.address] * request.quantity)


# --- D6 ---------------------------------------------------------------------------------------


async def idle_clients(server: Server, number: int) -> list[Wire]:
    """Clients that have asked once and been answered."""
    quiet = [await Wire.to(server, f"127.0.0.{10 + index % 5}") for index in range(number)]
    for wire in quiet:
        await wire.send(adu(read(0)))
    for wire in quiet:
        await wire.answer()
    return quiet


async def busy_clients(server: Server, number: int) -> list[Wire]:
    """Clients whose answer takes 300 ms."""
    working = [await Wire.to(server, "127.0.0.2") for _ in range(number)]
    for wire in working:
        await wire.send(adu(read(300), 9))
    return working


@pytest.mark.slow
async def test_d6_a_thousand_idle_ten_busy_and_one_that_never_reads_are_stopped_within_the_bound() -> None:
    handler = Slow()
    limits = Limits(max_connections=2000, stop_timeout_s=1.5)
    with descriptors_for(4096):
        async with Server(handler, FREE_PORT, limits=limits) as server:
            quiet = await idle_clients(server, 1000)
            deaf = await never_reading(server)
            working = await busy_clients(server, 10)
            await until(lambda: handler.running == 10)
            began = perf_counter()
            stopping = asyncio.create_task(server.stop())
            for wire in quiet:
                assert (await wire.ended()).data == b""
            idle_s = perf_counter() - began
            for wire in working:
                assert answers_in((await wire.ended()).data) == [(9, 1, b"\x03\x02\x01\x2c")]
            busy_s = perf_counter() - began
            result = await stopping
            stop_s = perf_counter() - began
            for wire in (*quiet, *working, deaf):
                wire.close()
    assert result == Forced(connections=1011, aborted=1)
    assert idle_s < 0.5
    assert busy_s < 0.3 + MARGIN_S
    assert 1.4 < stop_s < 1.5 + MARGIN_S


async def test_d6_a_stop_that_everybody_lets_happen_is_drained() -> None:
    handler = Slow()
    async with Server(handler, FREE_PORT) as server:
        quiet, working = await idle_clients(server, 100), await busy_clients(server, 10)
        await until(lambda: handler.running == 10)
        began = perf_counter()
        assert await server.stop() == Drained(connections=110)
        assert 0.2 < perf_counter() - began < 0.3 + MARGIN_S
        for wire in quiet:
            assert (await wire.ended()).data == b""
        for wire in working:
            assert answers_in((await wire.ended()).data) == [(9, 1, b"\x03\x02\x01\x2c")]
        for wire in (*quiet, *working):
            wire.close()
    assert server.statistics().closed_by_reason == {"stopping": 110}


async def test_d6_what_had_arrived_when_the_stop_began_is_answered() -> None:
    async with Server(Bank(), FREE_PORT) as server:
        clients = [await Wire.to(server) for _ in range(100)]
        await asyncio.gather(*(client.ask(READ) for client in clients))
        for client in clients:
            await client.send(adu(READ, 5) * 10)
        assert await server.stop() == Drained(100)
        for client in clients:
            assert len(answers_in((await client.ended()).data)) == 10
            client.close()


@pytest.mark.slow
async def test_d6_a_handler_that_never_ends_is_cut_off_at_the_bound() -> None:
    limits = Limits(stop_timeout_s=0.4)
    async with Server(Slow(), FREE_PORT, limits=limits) as server, await Wire.to(server) as client:
        await client.send(adu(read(60_000)))
        await until(lambda: server.statistics().requests == 1)
        began = perf_counter()
        assert await server.stop() == Forced(connections=1, aborted=1)
        assert 0.35 < perf_counter() - began < 0.4 + MARGIN_S
        assert (await client.ended()).data == b""


async def test_d6_a_stop_without_patience_forces_at_once() -> None:
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(60_000)))
        await until(lambda: server.statistics().requests == 1)
        began = perf_counter()
        assert await server.stop(timeout_s=0) == Forced(1, 1)
        assert perf_counter() - began < MARGIN_S


@pytest.mark.slow
async def test_d6_a_handler_that_refuses_to_be_cancelled_does_not_hold_the_stop() -> None:
    released = asyncio.Event()

    async def stubborn(request: AnyRequest, context: RequestContext) -> Response:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return ReadHoldingRegistersResponse.of([0])

    limits = Limits(stop_timeout_s=0.3)
    async with Server(stubborn, FREE_PORT, limits=limits) as server, await Wire.to(server) as client:
        await client.send(adu(READ))
        await until(lambda: server.statistics().requests == 1)
        began = perf_counter()
        assert await server.stop() == Forced(1, 1)
        assert perf_counter() - began < 0.3 + 0.5 + MARGIN_S
        released.set()


async def test_d6_each_closing_is_told_once() -> None:
    observer = RecordingObserver()
    async with Server(Bank(), FREE_PORT, observer=observer) as server:
        clients = [await Wire.to(server) for _ in range(5)]
        await asyncio.gather(*(client.ask(READ) for client in clients))
    assert observer.reasons(EventKind.CONNECTION_CLOSED) == ["stopping"] * 5
    for client in clients:
        assert (await client.ended()).data == b""
        client.close()


# --- D7 ---------------------------------------------------------------------------------------


async def test_d7_stopping_twice_at_once_and_again_gives_the_same_result() -> None:
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(100)))
        await until(lambda: server.statistics().requests == 1)
        results = await asyncio.gather(server.stop(), server.stop(), server.stop(5))
        assert list(results) == [Drained(1)] * 3
        assert await server.stop() == Drained(1)
        assert len(answers_in((await client.ended()).data)) == 1
    with pytest.raises(ServerStateError, match="stopped"):
        await server.start()


async def test_d7_a_second_stop_in_a_hurry_forces_the_first() -> None:
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(60_000)))
        await until(lambda: server.statistics().requests == 1)
        first = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        began = perf_counter()
        assert await server.stop(timeout_s=0) == Forced(1, 1)
        assert await first == Forced(1, 1)
        assert perf_counter() - began < MARGIN_S


async def test_d7_a_hurry_in_the_same_turn_as_the_stop_is_not_lost() -> None:
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(60_000)))
        await until(lambda: server.statistics().requests == 1)
        began = perf_counter()
        server.request_stop()
        server.request_stop(at_once=True)
        assert await server.serve_forever() == Forced(1, 1)
        assert perf_counter() - began < MARGIN_S


async def test_d7_a_cancelled_stop_is_not_taken_back() -> None:
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(200)))
        await until(lambda: server.statistics().requests == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert len(answers_in((await client.ended()).data)) == 1
        assert await server.stop() == Drained(1)


async def test_d7_a_server_that_never_started_is_stopped_and_stays_so() -> None:
    server = Server(Bank(), FREE_PORT)
    assert await server.stop() == Drained(0)
    assert await server.stop() == Drained(0)
    with pytest.raises(ServerStateError, match="stopped"):
        await server.start()


@pytest.mark.parametrize("turns", range(6))
async def test_d7_a_stop_during_start_leaves_nothing_open(turns: int) -> None:
    server = Server(Bank(), "tcp://localhost:0", FREE_PORT)
    starting = asyncio.create_task(server.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await server.stop() == Drained(0)
    try:
        await starting
    except ServerStateError as error:
        assert "stopped" in str(error)  # noqa: PT017
    assert not server.serving
    assert server.statistics().listeners == 0


@pytest.mark.parametrize("turns", range(6))
async def test_d7_a_start_that_is_cancelled_leaves_nothing_open(turns: int) -> None:
    server = Server(Bank(), "tcp://localhost:0", FREE_PORT)
    starting = asyncio.create_task(server.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        assert server.statistics().listeners == 0
    assert await server.stop() == Drained(0)
    assert not server.serving


async def test_d7_a_stop_from_another_thread_and_another_loop() -> None:
    results: list[object] = []
    async with Server(Slow(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(adu(read(150)))
        await until(lambda: server.statistics().requests == 1)
        threads = [threading.Thread(target=lambda: results.append(asyncio.run(server.stop()))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert len(answers_in((await client.ended()).data)) == 1
        await until(lambda: len(results) == 3)
        for thread in threads:
            thread.join()
        assert results == [Drained(1)] * 3
        assert asyncio.run_coroutine_threadsafe(server.stop(), asyncio.get_running_loop()) is not None
        await asyncio.sleep(0)


def test_d7_a_server_in_a_thread_is_stopped_from_many_threads() -> None:
    with serve_in_thread(Bank(), FREE_PORT) as server:
        results: list[object] = []
        threads = [threading.Thread(target=lambda: results.append(server.stop())) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [Drained(0)] * 5
    server.server.request_stop()


@pytest.mark.parametrize("form", ["awaited", "requested", "requested_in_sync"])
async def test_d7_a_stop_from_a_handler(form: str) -> None:
    results: list[object] = []

    async def stops(request: AnyRequest, context: RequestContext) -> Response:
        if address_of(request) == 1:
            if form == "awaited":
                results.append(await server.stop())
            else:
                server.request_stop()
        elif address_of(request) > 1:
            await asyncio.sleep(0.1)
        return ReadHoldingRegistersResponse.of([address_of(request)])

    def stops_at_once(request: AnyRequest, context: RequestContext) -> Response:
        server.request_stop()
        return ReadHoldingRegistersResponse.of([address_of(request)])

    handler = stops_at_once if form == "requested_in_sync" else stops
    server = Server(handler, FREE_PORT)
    await server.start()
    async with await Wire.to(server) as client, await Wire.to(server) as other:
        if form in ("awaited", "requested"):
            await other.send(adu(read(200), 2))
            await until(lambda: server.statistics().requests == 1)
        began = perf_counter()
        await client.send(adu(read(1), 1))
        result = await server.serve_forever()
        assert perf_counter() - began < 1.0 + MARGIN_S
        answered = answers_in((await client.ended()).data)
        assert answered == ([] if form == "awaited" else [(1, 1, b"\x03\x02\x00\x01")])
        if form in ("awaited", "requested"):
            assert answers_in((await other.ended()).data) == [(2, 1, b"\x03\x02\x00\xc8")]
    assert result == Drained(2)
    if form == "awaited":
        await until(lambda: results == [Drained(2)])
