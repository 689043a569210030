from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from itertools import pairwise
from typing import Any

import pytest

from everbus.aio.client import AsyncClient
from everbus.errors import (
    ClientClosedError,
    ConnectError,
    ConnectionLostError,
    ModbusError,
    ModbusTimeoutError,
    ServerStateError,
)
from everbus.testing import ScriptedPeer, scripted
from tests.aio.wire import loop_complaints, until
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


async def test_a_connection_that_ended_while_idle_is_replaced_before_it_is_used() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncClient(peer.url, retries=0) as client:
            assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
            peer.drop_connections()
            await until(lambda: not client.connected)
            await client.unit(1).write_register(ADDRESS, 1)
            assert peer.connections == 2
            assert client.statistics().lost == 1


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


async def test_persistent_connects_again_by_itself() -> None:
    told: list[bool] = []
    lost: list[int] = []
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url, persistent=True)
        forget = client.on_connection(told.append)
        client.unit(1).on_connection_lost(lambda: lost.append(1))
        await client.connect()
        await client.wait_connected(1.0)
        peer.stop_listening()
        peer.drop_connections()
        await until(lambda: told == [True, False])
        with pytest.raises(ModbusTimeoutError, match="no connection to"):
            await client.wait_connected(0.05)
        peer.listen_again()
        await client.wait_connected(5.0)
        assert told == [True, False, True]
        assert lost == [1]
        forget()
        forget()
        await client.close()
        assert told == [True, False, True]


async def test_a_callback_that_fails_is_reported_and_changes_nothing() -> None:
    with ScriptedPeer() as peer, loop_complaints() as complaints:
        async with AsyncClient(peer.url) as client:
            client.on_connection_lost(lambda: 1 // 0)
            await client.disconnect()
            assert await client.unit(1).read_coils(0, 1) == [False]
        assert [type(complaint["exception"]) for complaint in complaints] == [ZeroDivisionError] * 2


async def test_a_peer_that_closes_every_connection_at_once_makes_no_busy_loop() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url, persistent=True)
        client.on_connection(lambda up: peer.drop_connections() if up else None)
        await client.connect()
        await asyncio.sleep(0.5)
        assert peer.connections < 8
        await client.close()


@pytest.mark.slow
async def test_a_closed_port_is_tried_with_pauses_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = AsyncClient(f"tcp://127.0.0.1:{port}", timeout_s=0.02, retries=0)
    with pytest.raises(ConnectError):
        await client.unit(1).read_coils(0, 1)
    before, started = len(os.listdir("/proc/self/fd")), time.process_time()
    for _ in range(300):
        with pytest.raises(ConnectError):
            await client.unit(1).read_coils(0, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert time.process_time() - started < 1.5
    await client.close()


async def test_connect_and_close_may_be_called_in_every_state() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url)
        await client.close()
        await client.close()
        await asyncio.gather(*(client.connect() for _ in range(20)))
        await client.connect()
        assert "<AsyncClient" in repr(client)
        assert client.connected
        await client.disconnect()
        await client.disconnect()
        assert await client.unit(1).read_coils(0, 1) == [False]
        connecting = asyncio.create_task(client.connect())
        await client.close()
        await asyncio.wait([connecting])
        await client.close()
        with pytest.raises(ServerStateError, match="is closed"):
            await client.unit(1).read_coils(0, 1)
        await until(lambda: peer.connections == 3)


async def test_closing_while_connecting_ends_that() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url)
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        await client.close()
        ended = await asyncio.gather(connecting, return_exceptions=True)
        assert not client.connected
        assert isinstance(ended[0], (ModbusError, asyncio.CancelledError, type(None)))


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


def test_it_may_be_made_outside_of_a_loop_and_used_in_several_one_after_the_other() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url)

        async def once() -> list[bool]:
            async with client:
                return await client.unit(1).read_coils(0, 1)

        assert asyncio.run(once()) == [False]
        assert asyncio.run(once()) == [False]

        async def left_open() -> None:
            await client.connect()
            with pytest.raises(ServerStateError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, client.connect())
            await client.close()

        asyncio.run(left_open())


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


async def test_who_waits_for_a_connection_is_told_of_the_close() -> None:
    client = AsyncClient("tcp://127.0.0.1:1")
    waiter = asyncio.create_task(client.wait_connected())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosedError):
        await waiter


async def test_a_peer_that_speaks_first_is_left_alone_for_a_while() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url, persistent=True)
        client.on_connection(lambda up: peer.push(b"SSH-2.0-somebody\r\n") if up else None)
        await client.connect()
        await asyncio.sleep(0.5)
        assert peer.connections < 8
        assert client.statistics().replaced["not_modbus"] > 0
        await client.close()


async def test_four_at_once_keep_the_spacing_of_a_unit() -> None:
    with ScriptedPeer() as peer:
        async with AsyncClient(peer.url, max_in_flight=4) as client:
            client.unit(1).set_message_spacing(0.05)
            await asyncio.gather(*(client.unit(1).read_coils(0, 1) for _ in range(4)))
        times = [received.at for received in peer.requests]
        assert times[-1] - times[0] > 0.045


def test_a_client_whose_loop_has_ended_begins_anew() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url, persistent=True)

        async def once() -> list[bool]:
            await client.connect()
            return await client.unit(1).read_coils(0, 1)

        assert asyncio.run(once()) == [False]
        assert asyncio.run(once()) == [False]
        asyncio.run(client.close())
        assert not client.connected
        assert peer.connections == 2


def test_a_child_process_leaves_the_connection_to_its_parent() -> None:
    with ScriptedPeer() as peer:
        client = AsyncClient(peer.url)

        async def both() -> None:
            await client.connect()
            child = os.fork()
            if child == 0:
                os._exit(_close_in_child(client))
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222  it ends at once
            assert os.waitstatus_to_exitcode(status) == 0
            assert await client.unit(1).read_coils(0, 1) == [False]
            await client.close()

        asyncio.run(both())
        assert peer.connections == 1


def _close_in_child(client: AsyncClient) -> int:
    try:
        asyncio.run(client.close())
    except BaseException:  # noqa: BLE001  a child of a test must not run the test's end
        return 1
    return 0
