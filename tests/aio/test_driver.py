from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import Any

import pytest

from everbus.aio.client import AsyncClient
from everbus.errors import (
    ClientClosedError,
    ConnectionLostError,
    ModbusTimeoutError,
    ServerStateError,
)
from everbus.testing import ScriptedPeer, scripted
from tests.aio.wire import until
from tests.rogue import ADDRESS, VALUES, bank, value


def quick(url: str, timeout_s: float = 0.1, **options: Any) -> AsyncClient:
    return AsyncClient(url, timeout_s=timeout_s, retries=0, **options)


async def test_no_more_are_in_flight_than_may() -> None:
    with ScriptedPeer(scripted.silent) as peer:
        async with quick(peer.url, 0.2, max_in_flight=4) as client:
            asked = [asyncio.create_task(client.unit(1).read_coils(0, 1)) for _ in range(10)]
            await until(lambda: len(peer.requests) == 4)
            await asyncio.sleep(0.05)
            assert len(peer.requests) == 4
            ends = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(end) for end in ends} == {ModbusTimeoutError}


async def test_the_device_may_restart_in_mid_flight() -> None:
    with ScriptedPeer([scripted.answer, scripted.silent, scripted.silent], device=bank()) as peer:
        async with AsyncClient(peer.url, timeout_s=2.0, max_in_flight=4) as client:
            unit = client.unit(1)
            assert await unit.read_holding_registers(ADDRESS, 2) == VALUES
            read = asyncio.create_task(unit.read_holding_registers(ADDRESS, 2))
            write = asyncio.create_task(unit.write_register(500, 1))
            await until(lambda: len(peer.requests) == 3)
            peer.drop_connections(reset=True)
            assert await read == VALUES
            with pytest.raises(ConnectionLostError, match="before the answer came"):
                await write


async def test_closing_ends_what_waits() -> None:
    with ScriptedPeer(scripted.silent) as peer:
        client = AsyncClient(peer.url, timeout_s=30.0)
        asked = [asyncio.create_task(client.unit(1).read_coils(0, 1)) for _ in range(3)]
        await until(lambda: len(peer.requests) == 1)
        await client.close()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} == {ClientClosedError}


async def test_cancelled_requests_that_were_queued_are_never_sent() -> None:
    with ScriptedPeer(scripted.late(0.02), device=bank()) as peer:
        async with quick(peer.url, 5.0) as client:
            unit = client.unit(1)
            asked = [asyncio.create_task(unit.write_register(number, 1)) for number in range(10)]
            await until(lambda: len(peer.requests) == 1)
            for task in asked[1:]:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            assert await unit.read_holding_registers(20, 1) == [value(20)]
            assert [received.frame.pdu[:3].hex() for received in peer.requests] == ["060000", "030014"]
            assert client.statistics().cancelled == 9


@pytest.mark.parametrize("max_in_flight", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_at_every_await_point_leaves_a_usable_client(turns: int, max_in_flight: int) -> None:
    with ScriptedPeer(scripted.late(0.002), device=bank()) as peer:
        async with quick(peer.url, 5.0, max_in_flight=max_in_flight) as client:
            unit = client.unit(1)
            for connect_anew in (False, True):
                if connect_anew:
                    await client.disconnect()
                asked = [asyncio.create_task(unit.read_holding_registers(number, 1)) for number in range(6)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in asked[::2]:
                    task.cancel()
                ends = await asyncio.gather(*asked, return_exceptions=True)
                for number in (1, 3, 5):
                    assert ends[number] == [value(number)]
            assert await unit.read_holding_registers(ADDRESS, 2) == VALUES


@pytest.mark.slow
async def test_ten_thousand_cancellations_leave_nothing() -> None:
    chance = random.Random(11)
    with ScriptedPeer(device=bank()) as peer:
        async with quick(peer.url, 5.0, max_in_flight=4) as client:
            unit = client.unit(1)
            wrong = cancelled = 0
            for _ in range(1_000):
                numbers = [chance.randrange(900) for _ in range(10)]
                asked = [asyncio.create_task(unit.read_holding_registers(number, 1)) for number in numbers]
                for task in asked:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
                for number, end in zip(numbers, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                    cancelled += isinstance(end, asyncio.CancelledError)
                    wrong += not isinstance(end, asyncio.CancelledError) and end != [value(number)]
            assert wrong == 0
            assert cancelled > 5_000
            for address in range(20):
                assert await unit.read_holding_registers(address, 1) == [value(address)]
            assert peer.connections == 1


async def test_pauses_are_kept() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url, spacing_s=0.05)
        client.unit(1).require_connect_delay(0.1)
        async with client:
            connected = time.monotonic()
            await asyncio.gather(*(client.unit(1).read_coils(0, 1) for _ in range(3)))
        times = [received.at for received in peer.requests]
        assert times[0] - connected > 0.08
        assert all(later - earlier > 0.045 for earlier, later in pairwise(times))


async def test_one_unit_may_be_spaced() -> None:
    with ScriptedPeer() as peer:
        async with AsyncClient(peer.url) as client:
            slow, other = client.unit(1), client.unit(2)
            slow.set_message_spacing(0.1)
            await slow.read_coils(0, 1)
            await asyncio.gather(slow.read_coils(0, 1), other.read_coils(0, 1))
        times = {unit: [r.at for r in peer.requests if r.frame.unit == unit] for unit in (1, 2)}
        assert times[1][1] - times[1][0] > 0.09
        assert times[2][0] - times[1][0] < 0.09


async def test_a_pause_that_ends_after_the_deadline_is_not_waited_for() -> None:
    with ScriptedPeer() as peer:
        async with quick(peer.url, 0.1) as client:
            client.unit(1).set_message_spacing(5.0)
            await client.unit(1).read_coils(0, 1)
            started = time.monotonic()
            with pytest.raises(ModbusTimeoutError, match="is spaced"):
                await client.unit(1).read_coils(0, 1)
            assert time.monotonic() - started < 0.09


async def test_closing_ends_a_call_that_connects_and_cancels_nobody() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url)
        asked = asyncio.create_task(client.unit(1).read_coils(0, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.close()
        (end,) = await asyncio.gather(asked, return_exceptions=True)
        assert isinstance(end, (ClientClosedError, ServerStateError)), repr(end)


async def test_a_waiter_cancelled_in_the_turn_of_a_close_is_cancelled() -> None:
    with ScriptedPeer(scripted.silent) as peer:
        client = AsyncClient(peer.url)
        asked = [asyncio.create_task(client.unit(1).read_coils(0, 1)) for _ in range(2)]
        await until(lambda: len(peer.requests) == 1)
        asked[1].cancel()
        await client.close()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(end) for end in ends] == [ClientClosedError, asyncio.CancelledError]


async def test_four_at_once_keep_the_spacing_of_a_unit() -> None:
    with ScriptedPeer() as peer:
        async with AsyncClient(peer.url, max_in_flight=4) as client:
            client.unit(1).set_message_spacing(0.05)
            await asyncio.gather(*(client.unit(1).read_coils(0, 1) for _ in range(4)))
        times = [received.at for received in peer.requests]
        assert times[-1] - times[0] > 0.045
