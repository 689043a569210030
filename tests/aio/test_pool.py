from __future__ import annotations

import asyncio
import time

import pytest

from everbus.aio.client import AsyncClient
from everbus.aio.pool import AsyncPool
from everbus.client.pool_core import PoolOptions
from everbus.errors import (
    ConfigurationError,
    ConnectError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    PoolExhaustedError,
    UsageError,
)
from everbus.maps.notation import parse_point
from everbus.protocol.codes import ExceptionCode
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer, scripted
from tests.aio.wire import until
from tests.rogue import ADDRESS, VALUES, bank, value


async def test_many_units_and_callers_share_one_connection() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncPool() as pool:
            units = [pool.unit(peer.url, number) for number in range(1, 6)]
            got = await asyncio.gather(*(unit.read_holding_registers(at, 1) for unit in units for at in range(10)))
            assert got == [[value(at)] for _ in units for at in range(10)]
            assert peer.connections == 1
            found = pool.statistics()
            assert (found.granted, found.links, found.idle, found.opened) == (50, 1, 1, 1)
            assert repr(units[0]) == f"<AsyncPooledUnit 1 of {peer.url}>"


@pytest.mark.requirement("TG-4.2.1.2-client-reuse")
async def test_the_connection_used_least_recently_makes_room_for_another_device() -> None:
    with ScriptedPeer(device=bank()) as one, ScriptedPeer(device=bank()) as two, ScriptedPeer(device=bank()) as three:
        async with AsyncPool(PoolOptions(max_links=2)) as pool:
            for peer in (one, two, one, three):
                assert await pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
            await until(lambda: two.open_connections == 0)
            assert (one.open_connections, three.open_connections) == (1, 1)
            assert pool.statistics().closed_by_reason == {"evicted": 1}


async def test_a_connection_whose_answer_is_missing_is_not_used_again() -> None:
    with ScriptedPeer([scripted.late(0.1)], device=bank()) as peer:
        async with AsyncPool(timeout_s=0.05, retries=0) as pool:
            with pytest.raises(ModbusTimeoutError):
                await pool.unit(peer.url).read_holding_registers(0, 1)
            assert await pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
            assert peer.connections == 2
            assert pool.statistics().discarded_unclean == 1


async def test_one_stuck_caller_costs_the_others_their_wait_at_most() -> None:
    with ScriptedPeer(scripted.silent) as peer:
        async with AsyncPool(PoolOptions(max_links_per_endpoint=5), wait_s=0.1, timeout_s=0.3, retries=0) as pool:
            started = time.monotonic()
            ends = await asyncio.gather(
                *(pool.unit(peer.url).read_coils(0, 1) for _ in range(100)), return_exceptions=True
            )
            assert time.monotonic() - started < 2.0
            kinds = [type(end) for end in ends]
            assert kinds.count(ModbusTimeoutError) == 5
            assert kinds.count(PoolExhaustedError) == 95
            found = pool.statistics()
            assert (found.links, found.waiting, found.timed_out) == (0, 0, 95)


async def test_too_many_that_wait_are_refused_at_once() -> None:
    with ScriptedPeer(scripted.late(0.05), device=bank()) as peer:
        async with AsyncPool(PoolOptions(max_waiters=1)) as pool:
            unit = pool.unit(peer.url)
            ends = await asyncio.gather(
                *(unit.read_holding_registers(ADDRESS, 2) for _ in range(4)), return_exceptions=True
            )
            assert [end for end in ends if isinstance(end, list)] == [VALUES] * 2
            refused = [end for end in ends if isinstance(end, PoolExhaustedError)]
            assert len(refused) == 2
            assert "too many wait" in str(refused[0])


async def test_callers_come_in_the_order_in_which_they_asked() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncPool() as pool:
            order: list[int] = []

            async def ask(number: int) -> None:
                async with pool.client(peer.url) as client:
                    order.append(number)
                    await client.unit(1).read_coils(0, 1)

            await asyncio.gather(*(ask(number) for number in range(20)))
            assert order == list(range(20))


async def test_cancelled_waiters_and_holders_lose_nothing() -> None:
    with ScriptedPeer(scripted.late(0.003), device=bank()) as peer:
        async with AsyncPool() as pool:
            unit = pool.unit(peer.url)
            for turns in range(12):
                asked = [asyncio.create_task(unit.read_holding_registers(at, 1)) for at in range(6)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in asked[::2]:
                    task.cancel()
                ends = await asyncio.gather(*asked, return_exceptions=True)
                assert [ends[at] for at in (1, 3, 5)] == [[value(at)] for at in (1, 3, 5)]
            found = pool.statistics()
            assert (found.lent, found.waiting) == (0, 0)


async def test_a_caller_that_fails_gives_its_connection_back() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncPool() as pool:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012  the pool is what is tested
                async with pool.client(peer.url) as client:
                    await client.unit(1).read_coils(0, 1)
                    1 // 0  # noqa: B018  a mistake of the caller's
            assert await pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
            assert pool.statistics().lent == 0


async def test_a_connection_that_ended_while_idle_is_replaced_without_an_error() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncPool(PoolOptions(check_after_s=0.0)) as pool:
            unit = pool.unit(peer.url)
            await unit.write_register(1, 2)
            peer.drop_connections()
            await asyncio.sleep(0.05)
            await unit.write_register(1, 3)
            assert peer.connections == 2
            assert pool.statistics().closed_by_reason == {"stale": 1}


async def test_idle_connections_are_closed_in_time() -> None:
    with ScriptedPeer() as peer:
        async with AsyncPool(PoolOptions(idle_timeout_s=0.05)) as pool:
            await pool.unit(peer.url).read_coils(0, 1)
            await until(lambda: peer.open_connections == 0)
            assert pool.statistics().closed_by_reason == {"idle": 1}


async def test_a_device_that_is_not_there() -> None:
    with ScriptedPeer() as peer:
        peer.stop_listening()
        async with AsyncPool() as pool:
            with pytest.raises(ConnectError, match="nobody listens"):
                await pool.unit(peer.url).read_coils(0, 1)
            assert pool.statistics().links == 0


async def test_a_closed_pool_lends_nothing() -> None:
    with ScriptedPeer(scripted.late(0.05)) as peer:
        pool = AsyncPool()
        asked = [asyncio.create_task(pool.unit(peer.url).read_coils(0, 1)) for _ in range(3)]
        await until(lambda: bool(peer.requests))
        await pool.close()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(end, PoolExhaustedError) for end in ends) == 2
        await pool.close()
        with pytest.raises(PoolExhaustedError, match="the pool is closed"):
            await pool.unit(peer.url).read_coils(0, 1)


async def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        AsyncPool(timeout_s=0.0)
    pool = AsyncPool()
    with pytest.raises(ConfigurationError):
        pool.unit("http://nowhere")
    with pytest.raises(UsageError):
        pool.unit("tcp://127.0.0.1", 256)
    assert issubclass(PoolExhaustedError, ModbusError)


async def test_points_are_read_through_a_pool_and_holes_are_remembered() -> None:
    with ScriptedPeer(device=Bank(holding_registers=[(0, 1), (3, 1)])) as peer:
        async with AsyncPool() as pool:
            points = [parse_point("h@0"), parse_point("h@3")]
            for reads in (3, 2):  # the second time nobody tries to read over the hole
                before = len(peer.requests)
                assert [reading.value for reading in await pool.unit(peer.url).read_points(points)] == [0, 0]
                assert len(peer.requests) - before == reads
            await pool.unit(peer.url).write(points[0], 9)
            assert await pool.unit(peer.url).read(points[0]) == 9


async def test_a_waiter_may_be_cancelled_in_the_same_turn_as_its_wait_ends() -> None:
    with ScriptedPeer(scripted.late(0.02)) as peer:
        pool = AsyncPool()
        holder = asyncio.create_task(pool.unit(peer.url).read_coils(0, 1))
        waiter = asyncio.create_task(pool.unit(peer.url).read_coils(0, 1))
        await until(lambda: bool(peer.requests))
        waiter.cancel()
        await pool.close()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await holder == [False]
        assert pool.statistics().lent == 0
        await pool.close()


async def test_a_waiter_that_was_cancelled_passes_its_turn_on() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncPool() as pool:
            waiters: list[asyncio.Task[list[int]]] = []
            async with pool.client(peer.url) as client:
                await client.unit(1).read_coils(0, 1)
                waiters += [asyncio.create_task(pool.unit(peer.url).read_holding_registers(at, 1)) for at in (1, 2)]
                await until(lambda: pool.statistics().waiting == 2)
                waiters[0].cancel()
            assert await waiters[1] == [value(2)]
            assert pool.statistics().lent == 0


async def test_a_pool_that_closes_while_a_connection_is_checked_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedPeer() as peer:
        pool = AsyncPool(PoolOptions(check_after_s=0.0))
        await pool.unit(peer.url).read_coils(0, 1)
        peer.drop_connections()
        (client,) = pool._clients.values()
        await until(lambda: not client.connected)
        monkeypatch.setattr(AsyncClient, "check", lambda _: pool._core.close(0.0) and False)
        with pytest.raises(PoolExhaustedError, match="closed"):
            await pool.unit(peer.url).read_coils(0, 1)
        monkeypatch.undo()
        await pool.close()
        assert pool.statistics().links == 0


async def test_an_exception_of_the_device_costs_no_connection() -> None:
    with ScriptedPeer(scripted.exception(ExceptionCode.ILLEGAL_DATA_ADDRESS)) as peer:
        async with AsyncPool() as pool:
            for _ in range(3):
                with pytest.raises(ExceptionResponseError):
                    await pool.unit(peer.url).read_coils(0, 1)
        assert peer.connections == 1
