from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from everbus.aio.client import AsyncClient
from everbus.errors import (
    ClientClosedError,
    ConnectError,
    ModbusError,
    ModbusTimeoutError,
    ServerStateError,
)
from everbus.testing import ScriptedPeer
from tests.aio.wire import loop_complaints, until
from tests.rogue import ADDRESS, VALUES, bank


async def test_a_connection_that_ended_while_idle_is_replaced_before_it_is_used() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with AsyncClient(peer.url, retries=0) as client:
            assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
            peer.drop_connections()
            await until(lambda: not client.connected)
            await client.unit(1).write_register(ADDRESS, 1)
            assert peer.connections == 2
            assert client.statistics().lost == 1


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


async def test_the_time_is_over_before_a_connection_is_there_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = AsyncClient(f"tcp://127.0.0.1:{port}", timeout_s=0.3, retries=0, persistent=True)
    with pytest.raises(ConnectError, match="nobody listens there"):
        await client.connect()
    with pytest.raises(ModbusTimeoutError, match=r"the last try: .*nobody listens there"):
        await client.wait_connected(0.05)
    await client.close()
